"""Data looked over: counted against data whose every fault was put there by hand."""

import errno
import json
import os

import numpy as np
import pytest
from PIL import Image

from zoo.build import open_data
from zoo.datasets import Data, Split, check_data


def noise(seed: int, size=(12, 8)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path):
    """train: cats 0 to 5, dogs 6 to 9; eval: cat 20, dog 21."""
    for seed in (*range(10), 20, 21):
        label = "cat" if seed < 6 or seed == 20 else "dog"
        file = tmp_path / "data" / ("train" if seed < 10 else "val") / label / f"{seed}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(seed, (12 + seed, 8)).save(file)
    return tmp_path / "data"


def look(root, **how):
    found = check_data(open_data(root, broken=True), **how)
    assert json.loads(json.dumps(found)) == found
    return found


def test_clean_data(root):
    found = look(root)
    assert found["fine"] and not any(found[what] for what in ("broken", "leaks", "duplicates", "label_noise"))
    train, held = found["splits"]["train"], found["splits"]["eval"]
    assert (train["rows"], train["pictures"], held["rows"]) == (10, 10, 2)
    assert train["width"] == [12, 16.5, 21] and train["height"] == [8, 8, 8] and held["width"] == [32, 32.5, 33]
    assert train["aspect"] == pytest.approx([12 / 8, 16.5 / 8, 21 / 8], abs=1e-3)
    assert train["classes"] == {"cat": 6, "dog": 4} and held["classes"] == {"cat": 1, "dog": 1}
    assert train["missing"] == {} and train["captions"] is None


def test_mean_and_std_are_those_of_pictures_resized_to_one_size(tmp_path):
    """A wide picture weighs no more than a narrow one."""
    values = {"a": (0, 255, 51), "b": (255, 255, 102)}
    for (name, colour), width in zip(values.items(), (100, 4), strict=True):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (width, 4), colour).save(tmp_path / "train" / name / "x.png")
        (tmp_path / "val" / name).mkdir(parents=True)
        noise(len(name) + width).save(tmp_path / "val" / name / "x.png")
    found = look(tmp_path)
    assert found["mean"] == pytest.approx([0.5, 1, 0.3]) and found["std"] == pytest.approx([0.5, 0, 0.1])


def test_mean_and_std_are_numpys(root):
    found = look(root)
    pixels = [np.asarray(noise(seed, (12 + seed, 8))).reshape(-1, 3) / 255 for seed in range(10)]
    mean = np.mean([each.mean(0) for each in pixels], axis=0)
    std = np.sqrt(np.mean([((each - mean) ** 2).mean(0) for each in pixels], axis=0))
    assert found["mean"] == pytest.approx(mean.tolist(), abs=1e-4) and found["std"] == pytest.approx(std.tolist(), abs=1e-4)


def test_a_leak_is_seen_whatever_the_file_is_called_and_however_it_was_written(root):
    with Image.open(root / "train" / "cat" / "3.png") as picture:
        picture.save(root / "val" / "cat" / "other.bmp")
    found = look(root)
    assert found["leaks"] == [{"eval": str(root / "val/cat/other.bmp"), "train": str(root / "train/cat/3.png")}]
    assert not found["fine"] and not found["duplicates"] and not found["label_noise"]


def test_pictures_of_the_same_bytes_and_another_shape_are_two(tmp_path):
    grey = np.zeros((4, 6, 3), dtype=np.uint8)
    rows = [{"image": Image.fromarray(grey), "label": 0}, {"image": Image.fromarray(grey.reshape(6, 4, 3)), "label": 0}]
    found = check_data(Data("two", rows, [], classes=("a",)))
    assert not found["duplicates"] and found["splits"]["train"]["pictures"] == 2
    assert check_data(Data("two", [rows[0], rows[0]], [], classes=("a",)))["duplicates"] == [
        {"split": "train", "path": "train row 1", "first": "train row 0"}
    ]


def test_duplicates_and_noise_of_labels(root):
    noise(2, (14, 8)).save(root / "train" / "cat" / "2 again.png")
    noise(7, (19, 8)).save(root / "train" / "cat" / "a dog.png")
    noise(20, (32, 8)).save(root / "val" / "dog" / "a cat.png")
    found = look(root)
    folder = str(root)
    assert [(each["split"], each["path"].removeprefix(folder)) for each in found["duplicates"]] == [
        ("train", "/train/cat/2.png"),
        ("train", "/train/dog/7.png"),
        ("eval", "/val/dog/a cat.png"),
    ]
    assert [(each["labels"], each["other_labels"]) for each in found["label_noise"]] == [(["dog"], ["cat"])] * 2
    assert found["fine"], "doubtful, but nothing that a training can not stand"


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_all_told(root, workers):
    (root / "train" / "cat" / "0.png").write_bytes(b"")
    content = (root / "val" / "dog" / "21.png").read_bytes()
    (root / "val" / "dog" / "21.png").write_bytes(content[:100])
    found = look(root, workers=workers)
    told = [(each["split"], each["path"].removeprefix(str(root)), each["row"]) for each in found["broken"]]
    assert told == [("train", "/train/cat/0.png", 0), ("eval", "/val/dog/21.png", 1)]
    assert found["broken"][0]["why"] == "an empty file" and "truncated" in found["broken"][1]["why"]
    train = found["splits"]["train"]
    assert train["pictures"] == 9 and not found["fine"]
    assert train["classes"] == {"cat": 6, "dog": 4} and train["missing"] == {}, "the folder tells the label of a broken picture too"


def test_workers_change_nothing(root):
    noise(20, (32, 8)).save(root / "train" / "dog" / "30.png")
    assert look(root) == look(root, workers=2)


def test_a_manifest_with_holes_and_captions(tmp_path):
    for seed in range(4):
        noise(seed).save(tmp_path / f"{seed}.png")
    (tmp_path / "a.csv").write_text(
        "image,caption,age,split\n"
        "0.png,one,3,train\n0.png,two,,train\n0.png,three,4,train\n1.png,four,5,train\ngone.png,five,6,train\n,six,7,train\n"
        "2.png,seven,8,val\n3.png,,9,val\n"
    )
    with pytest.raises(ValueError, match=r"line 6: .*gone\.png: no such file"):
        open_data(tmp_path / "a.csv")
    found = look(tmp_path / "a.csv")
    train, held = found["splits"]["train"], found["splits"]["eval"]
    assert (train["rows"], train["pictures"]) == (6, 2) and train["missing"] == {"image": 1, "age": 1}
    assert train["captions"] == [1, 1, 3] and held["captions"] == [1, 1, 1] and held["missing"] == {"text": 1}
    assert [(each["row"], each["why"]) for each in found["broken"]] == [(4, "no such file")]
    assert not found["duplicates"], "three captions of one picture are no duplicates"


def test_coco_with_a_picture_that_is_gone(tmp_path):
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(3)]
    for number in (1, 2):
        noise(number).save(tmp_path / f"{number}.png")
    said = [{"image_id": number, "caption": f"{word} {number}"} for number in range(3) for word in ("a", "b")]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": said}))
    with pytest.raises(ValueError, match="none of|not there"):
        open_data(tmp_path / "c.json")
    found = look(tmp_path / "c.json")
    assert [each["path"] for each in found["broken"]] == [str(tmp_path / "0.png")]
    assert sum(split["rows"] for split in found["splits"].values()) == 6


@pytest.mark.parametrize("name", ["digits", "glyphs:characters=40"])
def test_named_data(name):
    found = look(name)
    data = open_data(name)
    assert [split["rows"] for split in found["splits"].values()] == [len(data.train), len(data.eval)]
    assert found["fine"] and found["splits"]["train"]["pictures"] == len(data.train)


def test_a_failing_disk_is_no_broken_picture(root, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    data = open_data(root)
    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(OSError, match=r"0\.png"):
        check_data(data)


def test_a_row_is_read_once():
    asked = []

    def read(index):
        asked.append(index)
        return {"image": noise(index // 2), "text": str(index)}

    pictures = np.arange(6) // 2
    split = Split(6, read, ("image", "text"), pictures=pictures, cells=lambda index: {"text": str(index)})
    found = check_data(Data("read", split, []))
    assert asked == [0, 2, 4] and found["splits"]["train"]["captions"] == [2, 2, 2]

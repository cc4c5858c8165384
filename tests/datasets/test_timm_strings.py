"""Data by timm's own strings: the rows that timm's create_dataset has, told apart where timm would be silent."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from timm.data import create_dataset

from zoo.build import open_data
from zoo.datasets import timm_data
from zoo.train.loader import PreparedRows, load
from zoo.train.sampler import Plan

pytestmark = [  # timm leaves the closing of its files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]


def picture(number: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(held, "png")
    return held.getvalue()


def fill(root, classes=("ant", "bee"), count=6, first=0):
    for number in range(count):
        file = root / classes[number % len(classes)] / f"{number + first:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number + first))
    return root


def numbers(split) -> list[int]:
    return [int(np.asarray(row["image"])[0, 0, 0]) for row in split]


def same_as_timm(split, dataset):
    assert [(int(np.asarray(image)[0, 0, 0]), label) for image, label in dataset] == list(
        zip(numbers(split), (row["label"] for row in split), strict=True)
    )


def test_a_folder_with_both_sides(tmp_path):
    fill(tmp_path / "train"), fill(tmp_path / "val", first=100, count=4)
    data = open_data(f"timm:{tmp_path}")
    same_as_timm(data.train, create_dataset("", root=str(tmp_path), split="train"))
    same_as_timm(data.eval, create_dataset("", root=str(tmp_path), split="validation"))
    assert data.classes == ("ant", "bee") and data.columns == ("image", "label")
    assert numbers(open_data(data.name).eval) == numbers(data.eval)
    assert pickle.loads(pickle.dumps(data.train))[1]["label"] == 0


def test_one_folder_is_never_both_sides(tmp_path):
    """timm takes the whole folder for a split that it does not find: evaluation would be on the training pictures."""
    fill(tmp_path, count=40)
    assert (
        len(create_dataset("", root=str(tmp_path), split="train")) == len(create_dataset("", root=str(tmp_path), split="validation")) == 40
    )
    data = open_data(f"timm:{tmp_path}")
    assert sorted(numbers(data.train) + numbers(data.eval)) == list(range(40)) and len(data.eval) >= 2
    with pytest.raises(ValueError, match="there is no folder 'test', and the whole would be for both sides"):
        open_data(f"timm:{tmp_path},eval=test")


def test_sides_of_other_classes_are_refused(tmp_path):
    """timm numbers the classes of each side for itself, so that bee would be 1 here and 0 there."""
    fill(tmp_path / "train"), fill(tmp_path / "val", classes=("bee",), count=3)
    assert create_dataset("", root=str(tmp_path), split="validation")[0][1] == 0
    with pytest.raises(ValueError, match="the sides have other classes, so that their labels mean other things: 'ant' is in one only"):
        open_data(f"timm:{tmp_path}")


def test_a_broken_picture_is_told_and_not_the_next_one_in_its_place(tmp_path, caplog):
    fill(tmp_path / "train"), fill(tmp_path / "val")
    (tmp_path / "train" / "ant" / "000.png").write_bytes(b"no picture")
    with caplog.at_level("ERROR"):
        assert np.asarray(create_dataset("", root=str(tmp_path), split="train")[0][0])[0, 0, 0] == 2
    with pytest.raises(ValueError, match=r"train, ant/000.png: "):
        open_data(f"timm:{tmp_path}").train[0]


class Number:
    def __call__(self, row):
        return {"number": int(np.asarray(row["image"])[0, 0, 0])}


def collate(rows):
    return [row["number"] for row in rows]


def test_an_archive(tmp_path):
    fill(tmp_path / "pictures", count=40)
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for folder in ("ant", "bee"):
            tar.add(tmp_path / "pictures" / folder, folder)
    data = open_data(f"timm:{tmp_path}/all.tar")
    assert sorted(numbers(data.train) + numbers(data.eval)) == list(range(40)) and data.classes == ("ant", "bee")
    assert all(row["label"] == number % 2 for number, row in zip(numbers(data.train), data.train, strict=True))
    assert data.train[0]["label"] == 0  # the parent has read: its workers read beside it
    loaded = load(PreparedRows(data.train, Number(), 0), Plan(len(data.train), 2, 1), collate, workers=2, pin=False)
    alone = load(PreparedRows(data.train, Number(), 0), Plan(len(data.train), 2, 1), collate, workers=0, pin=False)
    assert list(loaded) == list(alone)


@pytest.fixture
def mnist(tmp_path):
    """MNIST's files, with four and three pictures."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for side, count in (("train", 4), ("t10k", 3)):
        pixels = (np.arange(count * 784) % 251).astype(np.uint8).tobytes()
        sizes = b"".join(size.to_bytes(4, "big") for size in (count, 28, 28))
        (folder / f"{side}-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03" + sizes + pixels)
        (folder / f"{side}-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01" + count.to_bytes(4, "big") + bytes(range(count)))
    return tmp_path


def test_torchvisions(mnist):
    data = open_data(f"timm:torch/mnist,root={mnist}")
    assert (len(data.train), len(data.eval)) == (4, 3) and data.classes[0] == "0 - zero"
    assert data.img_size == 32 and data.augment == "shift"
    assert data.train[3]["label"] == 3 and data.train[3]["image"].mode == "RGB" and data.train[3]["image"].size == (28, 28)
    timms = create_dataset("torch/mnist", root=str(mnist), split="validation")
    assert np.array_equal(np.asarray(timms[2][0]), np.asarray(data.eval[2]["image"])[..., 0])
    assert len(open_data(f"timm:torch/mnist,root={mnist},eval=train").eval) == 4


def test_every_name_of_torchvision_is_one_of_timms(tmp_path):
    for name in timm_data._TORCH:
        with pytest.raises(Exception) as raised:  # nothing is there
            create_dataset(f"torch/{name}", root=str(tmp_path / "gone"), split="validation")
        assert "Unknown torchvision" not in str(raised.value), name
    with pytest.raises(AssertionError, match="Unknown torchvision"):
        create_dataset("torch/cifar11", root=str(tmp_path), split="validation")


def test_hugging_faces_through_timm(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    rows = [{"image": {"bytes": picture(number), "path": None}, "label": number % 2} for number in range(20)]
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data" / "train-0.parquet")
    datasets.Dataset.from_list(rows[:3], features=features).to_parquet(tmp_path / "data" / "test-0.parquet")
    data = open_data(f"timm:hfds/{tmp_path}/data")
    assert numbers(data.train) == list(range(20)) and numbers(data.eval) == [0, 1, 2] and data.classes == ("ant", "bee")
    assert [row["label"] for row in data.eval] == [0, 1, 0]
    forward = open_data(f"timm:hfids/{tmp_path}/data,eval=test")
    assert forward.train.stretches == (20,) and numbers(forward.train) == list(range(20)) and forward.name.startswith("timm:hfids/")
    (tmp_path / "data" / "test-0.parquet").unlink()
    data = open_data(f"timm:hfds/{tmp_path}/data")
    assert sorted(numbers(data.train) + numbers(data.eval)) == list(range(20)) and len(data.eval) >= 2


def test_webdatasets_through_timm(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for number in range(shard * 5, shard * 5 + 5):
                for name, content in ((f"{number}.png", picture(number)), (f"{number}.cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    told = {"name": "train", "num_samples": 10, "filenames": ["train-0.tar", "train-1.tar"], "shard_lengths": [5, 5]}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": told}}))
    data = open_data(f"timm:wds/mine,root={tmp_path}")
    assert sorted(numbers(data.train) + numbers(data.eval)) == list(range(10)) and data.classes == ("0", "1")
    assert data.train.stretches is None


@pytest.mark.parametrize(
    "string, told",
    [
        ("timm:{0}/gone", "no such folder or .tar file: .*gone"),
        ("timm:torch/cifar11,root={0}", "torchvision has no 'cifar11' for timm; did you mean 'cifar10'"),
        ("timm:torch/cifar10", "expected the folder that it is in: root=DIR"),
        ("timm:torch/cifar10,root={0}", "it is not in .*; download=true fetches it"),
        ("timm:torch/", "expected a name behind torch/"),
        ("timm:{0},rooot=x", "timm: has no option 'rooot'; did you mean 'root'"),
        ("timm:", "expected a name or a path behind timm:"),
        ("timm:tfds/cifar10", "TensorFlow's data come in an order that no run can be resumed in"),
        ("timm:{0}", "Found 0 images in subfolders"),
    ],
)
def test_what_is_wrong_with_the_string_is_one_line(tmp_path, string, told):
    with pytest.raises((ValueError, FileNotFoundError), match=told) as raised:
        open_data(string.format(tmp_path))
    assert "\n" not in str(raised.value)

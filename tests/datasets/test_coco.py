"""COCO's and Karpathy's captions: rows, sides and folders, on files as small as they can be."""

import json
import pickle

import pytest
from PIL import Image

from zoo.datasets import read_coco


def _pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 50).save(folder / name)


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def _coco(**captions):
    images = [{"id": 10 + index, "file_name": f"{name}.jpg"} for index, name in enumerate(captions)]
    notes = [{"image_id": 10 + index, "caption": text} for index, texts in enumerate(captions.values()) for text in texts]
    return {"images": images, "annotations": notes[::-1]}


def _told(path, **options):
    with pytest.raises(ValueError) as caught:
        read_coco(path, **options)
    return str(caught.value).removeprefix(f"{path}: ")


def test_train_and_val_beside_each_other(tmp_path):
    _pictures(tmp_path, "train2017/a.jpg", "train2017/b.jpg", "val2017/a.jpg")
    source = _write(tmp_path / "annotations" / "captions_train2017.json", _coco(a=["one ", "two"], b=["three"]))
    _write(tmp_path / "annotations" / "captions_val2017.json", _coco(a=["four", "five"], c=[]))
    data = read_coco(source)
    assert list(data.train.texts()) == ["two", "one", "three"] and list(data.eval.texts()) == ["five", "four"]
    assert data.train.ids.tolist() == data.train.pictures.tolist() == [0, 0, 1] and data.eval.ids.tolist() == [2, 2]
    row = pickle.loads(pickle.dumps(data)).eval[1]
    assert row["text"] == "four" and row["image"].mode == "RGB" and data.columns == ("image", "text")
    assert data.about == "5 captions of 3 pictures" and data.classes is None


def test_one_file_is_split_by_picture(tmp_path):
    names = [f"p{index}" for index in range(30)]
    _pictures(tmp_path, *(f"{name}.jpg" for name in names))
    data = read_coco(_write(tmp_path / "captions.json", _coco(**{name: [f"{name} x", f"{name} y"] for name in names})))
    sides = [{text.split()[0] for text in split.texts()} for split in (data.train, data.eval)]
    assert sides[0].isdisjoint(sides[1]) and sides[0] | sides[1] == set(names) and 1 <= len(sides[1]) <= 12
    assert len(data.eval) == 2 * len(sides[1])


def _karpathy(**splits):
    return {
        "dataset": "flickr30k",
        "images": [
            {"filename": f"{name}.jpg", "split": split, "sentences": [{"raw": f"{name} 0"}, {"raw": f"{name} 1"}]}
            for name, split in splits.items()
        ],
    }


def test_karpathy_says_the_splits(tmp_path):
    _pictures(tmp_path / "flickr30k-images", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    source = _write(tmp_path / "dataset_flickr30k.json", _karpathy(a="train", b="restval", c="val", d="test"))
    data = read_coco(source)
    assert list(data.train.texts()) == ["a 0", "a 1", "b 0", "b 1"] and list(data.eval.texts()) == ["c 0", "c 1"]
    assert list(read_coco(source, split="test").eval.texts()) == ["d 0", "d 1"]
    others = _write(tmp_path / "others.json", _karpathy(a="x", b="y"))
    assert _told(others) == "no picture is of the split train or eval; there is x, y"
    assert _told(source, split="tst") == "no picture is of the split 'tst'; did you mean 'test'?"


def test_karpathy_with_folders(tmp_path):
    content = _karpathy(a="train", c="val")
    for image in content["images"]:
        image["filepath"] = "val2014"
    _pictures(tmp_path / "images" / "val2014", "a.jpg", "c.jpg")
    assert len(read_coco(_write(tmp_path / "dataset_coco.json", content)).eval) == 2


def test_what_is_wrong_is_told(tmp_path):
    source = tmp_path / "x.json"
    with pytest.raises(FileNotFoundError, match="x.json: no such file"):
        read_coco(source)
    source.write_text("{")
    assert _told(source).startswith("not JSON: ")
    for wrong in ([], {"images": {}}, {"images": [{"id": 1}], "annotations": []}, {"images": [{"id": 1, "file_name": "a"}]}):
        assert "expected COCO's captions" in _told(_write(source, wrong))
    assert _told(_write(source, _coco(a=[]))) == "no captions"
    assert _told(_write(source, _coco(a=["x"], b=["y"]))).startswith("the picture a.jpg is in none of ")
    _pictures(tmp_path, "a.jpg")
    assert _told(source) == f"1 of 2 pictures are not there; the first is {tmp_path / 'b.jpg'}"
    _pictures(tmp_path, "b.jpg")
    assert _told(source, split="test") == "the split 'test' is asked for, but nothing tells the splits"

"""Folders of class folders, built file by file: both layouts, what is passed over, and every refusal."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.datasets import read_folder


def _save(path: Path, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), grey).save(path)


def _files(split) -> list[str]:
    return [Path(path).name for path in split.read.paths]


def _refused(path: Path, error: type[Exception] = ValueError) -> str:
    with pytest.raises(error) as caught:
        read_folder(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("word", ["val", "eval", "valid", "validation", "test", "Val"])
def test_train_beside_eval(tmp_path, word):
    for index, name in enumerate(("dog", "cat")):
        _save(tmp_path / "train" / name / "a.png", 10 + index)
        _save(tmp_path / "train" / name / "deep" / "er" / "b.jpg", 10 + index)
    _save(tmp_path / word / "dog" / "c.png", 99)
    data = read_folder(tmp_path)
    assert data.classes == ("cat", "dog") and data.columns == ("image", "label") and data.name == str(tmp_path)
    assert [row["label"] for row in data.train] == [0, 0, 1, 1]
    assert [np.asarray(row["image"])[0, 0, 0] for row in data.train] == [11, 11, 10, 10]
    (held,) = data.eval
    assert held["label"] == 1 and held["image"].mode == "RGB" and np.asarray(held["image"])[0, 0].tolist() == [99, 99, 99]


def test_val_comes_before_test(tmp_path):
    for part in ("train", "val", "test"):
        for name in ("a", "b"):
            _save(tmp_path / part / name / f"{part}.png")
    assert _files(read_folder(tmp_path).eval) == ["val.png", "val.png"]


def test_a_fifth_of_every_class_is_held_out_whatever_the_order(tmp_path, monkeypatch):
    sizes = {"9": 100, "10": 40, "100": 2, "1": 1}
    for name, count in sizes.items():
        for index in range(count):
            _save(tmp_path / name / f"{index}.png")
    data = read_folder(tmp_path)
    walk = os.walk
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "walk", lambda *args, **own: ((here, folders, sorted(names, key=hash)) for here, folders, names in walk(*args, **own))
        )
        again = read_folder(tmp_path)
    assert data.classes == ("1", "9", "10", "100")
    assert _files(data.eval) == _files(again.eval) and _files(data.train) == _files(again.train)
    assert set(data.train.read.paths).isdisjoint(data.eval.read.paths) and len(data.train) + len(data.eval) == sum(sizes.values())
    held = np.bincount([row["label"] for row in data.eval], minlength=4)
    assert held[0] == 0 and held[3] == 1
    assert 10 <= held[1] <= 30 and 2 <= held[2] <= 16

    _save(tmp_path / "9" / "new.png")
    more = read_folder(tmp_path)
    assert set(_files(more.eval)) - {"new.png"} == set(_files(data.eval))


def test_hidden_and_other_files_are_passed_over(tmp_path):
    for name in ("a", "b"):
        _save(tmp_path / name / "x.PNG")
        _save(tmp_path / name / "y.webp")
        _save(tmp_path / name / ".z.png")
        _save(tmp_path / name / ".cache" / "w.png")
        (tmp_path / name / "notes.txt").write_text("not a picture")
    _save(tmp_path / ".hidden" / "v.png")
    (tmp_path / "README.md").touch()
    data = read_folder(tmp_path)
    assert data.classes == ("a", "b")
    assert sorted(_files(data.train) + _files(data.eval)) == ["x.PNG", "x.PNG", "y.webp", "y.webp"]


def test_an_extension_added_in_timm_is_read(tmp_path):
    from timm.data import add_img_extensions, del_img_extensions

    for name in ("a", "b"):
        _save(tmp_path / name / "x.png")
        (tmp_path / name / "x.png").rename(tmp_path / name / "x.strange")
    assert "no picture, only .strange" in _refused(tmp_path)
    add_img_extensions(".strange")
    try:
        assert len(read_folder(tmp_path).train) == 2
    finally:
        del_img_extensions(".strange")


def test_missing_folder(tmp_path):
    assert _refused(tmp_path / "gone", FileNotFoundError).startswith(
        f"{tmp_path / 'gone'}: no such folder; expected two class folders or more"
    )
    (tmp_path / "file").touch()
    assert _refused(tmp_path / "file", FileNotFoundError).startswith(f"{tmp_path / 'file'}: a file, not a folder")


def test_no_class_folder(tmp_path):
    assert _refused(tmp_path).startswith(f"{tmp_path}: no class folder; expected two class folders or more")
    _save(tmp_path / "a.png")
    assert _refused(tmp_path).startswith(f"{tmp_path}: no class folder and 1 pictures outside of any; expected")


def test_one_class_folder_is_most_likely_the_wrong_level(tmp_path):
    for name in ("a", "b"):
        _save(tmp_path / "train" / name / "x.png")
    message = _refused(tmp_path)
    assert message.startswith(f"{tmp_path}: one class folder ('train'); expected")
    assert message.endswith(f"; did you mean {tmp_path / 'train'}?")
    assert len(read_folder(tmp_path / "train").train) == 2


def test_an_empty_class_folder_is_named(tmp_path):
    for name in ("a", "b", "c"):
        _save(tmp_path / name / "x.png")
    (tmp_path / "empty").mkdir()
    assert _refused(tmp_path).startswith(f"{tmp_path / 'empty'}: an empty class folder; expected at least one of *.png, *.jpg")
    (tmp_path / "empty" / "clip.mp4").touch()
    assert _refused(tmp_path).startswith(f"{tmp_path / 'empty'}: no picture, only .mp4; expected at least one of *.png, *.jpg")


def test_a_class_that_only_eval_has(tmp_path):
    for name in ("house", "tree"):
        _save(tmp_path / "train" / name / "x.png")
    _save(tmp_path / "val" / "houses" / "x.png")
    expected = f"{tmp_path / 'val' / 'houses'}: the class 'houses' is not in {tmp_path / 'train'}; did you mean 'house'?"
    assert _refused(tmp_path) == expected


def test_a_broken_picture_is_named_when_it_is_read(tmp_path):
    for name in ("a", "b"):
        _save(tmp_path / name / "x.png")
    (tmp_path / "a" / "x.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'a' / 'x.png'}: not a picture in a format that Pillow knows")):
        read_folder(tmp_path).train[0]

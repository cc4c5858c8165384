"""Manifests, written line by line: what they may say, and that whatever is wrong is told with its line."""

import csv
import datetime
import json
import os
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.datasets import read_manifest

EMOJI = Path(__file__).parents[2] / ".." / "shared" / "data" / "emoji"


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(("a", "b", "c", "d")):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("L", (4, 4), 10 * index).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def _refused(path: Path, text: str | bytes, error: type[Exception] = ValueError) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(error) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)[len(str(path)) :].lstrip(":, ")


ROWS = [
    {"image": "pictures/a.png", "label": "10", "caption": "a cat, asleep", "split": "train"},
    {"image": "pictures/b.png", "label": "9", "caption": 'a "dog"', "split": "train"},
    {"image": "./pictures/../pictures/a.png", "label": "10", "caption": "ein Kätzchen", "split": "train"},
    {"image": "pictures/c.png", "label": "9", "caption": "", "split": "val"},
    {"image": "pictures/d.png", "label": "", "caption": "two\nlines", "split": "test"},
]


def _csv(path: Path, rows: list[dict], delimiter: str = ",", encoding: str = "utf-8", end: str = "\n") -> Path:
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter, lineterminator=end)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _jsonl(path: Path, rows: list[dict]) -> Path:
    return _write(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: _csv(folder / "m.csv", ROWS),
        lambda folder: _csv(folder / "m.csv", ROWS, encoding="utf-8-sig", end="\r\n"),
        lambda folder: _csv(folder / "m.tsv", ROWS, delimiter="\t"),
        lambda folder: _csv(folder / "m.CSV", [{"Image ": row["image"], **{key: row[key] for key in list(row)[1:]}} for row in ROWS]),
        lambda folder: _jsonl(folder / "m.jsonl", ROWS),
        lambda folder: _jsonl(folder / "m.jsonl", [{key: value or None for key, value in row.items()} for row in ROWS]),
        lambda folder: _jsonl(folder / "m.jsonl", [{**row, "label": int(row["label"])} if row["label"] else row for row in ROWS]),
        lambda folder: _csv(folder / "m.csv", [{**row, "image": str(folder / row["image"])} for row in ROWS]),
    ],
    ids=["csv", "bom-crlf", "tsv", "capitals", "jsonl", "null", "numbers", "absolute"],
)
def test_every_form_says_the_same(folder, write):
    data = read_manifest(write(folder))
    assert data.classes == ("9", "10") and data.columns == ("image", "label", "text")
    assert [{**row, "image": np.asarray(row["image"]).tolist()[0][0]} for row in data.train] == [
        {"image": [0, 0, 0], "label": 1, "text": "a cat, asleep"},
        {"image": [10, 10, 10], "label": 0, "text": 'a "dog"'},
        {"image": [0, 0, 0], "label": 1, "text": "ein Kätzchen"},
    ]
    assert [{**row, "image": row["image"].mode} for row in data.eval] == [
        {"image": "RGB", "label": 0},
        {"image": "RGB", "text": "two\nlines"},
    ]
    for same in (data.train.ids, data.train.pictures):
        assert same[0] == same[2] != same[1]
    assert set(data.train.ids.tolist()).isdisjoint(data.eval.ids.tolist())
    assert pickle.loads(pickle.dumps(data)).train[2]["text"] == "ein Kätzchen"


def test_names_of_open_clip(folder):
    for name, text in {
        "comma.csv": "filepath,title\npictures/a.png,one\n",
        "tab.csv": "filepath\ttitle\npictures/a.png\tone\n",
        "text.tsv": "text\timage\none\tpictures/a.png\n",
    }.items():
        data = read_manifest(_write(folder / name, text))
        assert (len(data.train), len(data.eval)) == (1, 0)
        assert data.train[0]["text"] == "one" and data.columns == ("image", "text") and data.classes is None
    both = read_manifest(_write(folder / "both.csv", "image,title,caption\npictures/a.png,a title,a caption\n"))
    assert both.train[0]["text"] == "a caption"


def test_ids_join_pictures_and_pictures_join_ids(folder):
    text = "image,caption,id,split\n" + "".join(
        f"pictures/{picture}.png,x,{name},train\n" for picture, name in (("a", "cat"), ("b", "cat"), ("b", "7"), ("c", "8"), ("d", ""))
    )
    split = read_manifest(_write(folder / "m.csv", text)).train
    assert split.ids.tolist() == [0, 0, 0, 3, 4]  # 7 is cat: they share b
    assert split.pictures.tolist() == [0, 1, 1, 3, 4]


def _many(folder: Path, count: int) -> list[str]:
    names = [f"{index}.png" for index in range(count)]
    for name in names:
        os.link(folder / "pictures" / "a.png", folder / name)
    return names


def _held(data) -> set[str]:
    return {os.path.basename(path) for path in data.eval.read.paths}


def test_held_out_by_picture_in_any_order(folder):
    lines = [f"{name},caption {number}" for name in _many(folder, 300) for number in range(3)]
    data = read_manifest(_write(folder / "m.csv", "\n".join(["image,caption", *lines])))
    held = _held(data)
    assert len(data.eval) == 3 * len(held) and 35 <= len(held) <= 85
    random.Random(0).shuffle(lines)
    assert _held(read_manifest(_write(folder / "other.csv", "\n".join(["image,caption", *lines])))) == held
    kept = [line for line in lines if not line.startswith("7.png")]
    assert _held(read_manifest(_write(folder / "fewer.csv", "\n".join(["image,caption", *kept])))) == held - {"7.png"}


def test_held_out_by_id(folder):
    lines = [f"{name},x,{index // 3}" for index, name in enumerate(_many(folder, 300))]
    data = read_manifest(_write(folder / "m.csv", "\n".join(["image,caption,id", *lines])))
    assert set(data.train.ids.tolist()).isdisjoint(data.eval.ids.tolist())
    assert len(data.eval) % 3 == 0 and 20 <= len(data.eval) <= 120


def test_held_out_of_every_label(folder):
    lines = [f"{name},{index % 50}" for index, name in enumerate(_many(folder, 150))]
    data = read_manifest(_write(folder / "m.csv", "\n".join(["image,label", *lines])))
    assert data.classes == tuple(str(number) for number in range(50))
    assert {row["label"] for row in data.eval} == {row["label"] for row in data.train} == set(range(50))


def test_no_label_is_held_out_altogether(folder):
    names = _many(folder, 60)
    lines = [f"{name},common,{index}" for index, name in enumerate(names)]
    lines += [f"{name},also {index},{index}" for index, name in enumerate(names)]  # each picture has two labels, one of them nowhere else
    data = read_manifest(_write(folder / "m.csv", "\n".join(["image,label,id", *lines])))
    assert {row["label"] for row in data.train} == set(range(61)) and len(data.eval) == 0
    assert len(read_manifest(_write(folder / "m.csv", "\n".join(["image,label,id", *lines[:60]]))).eval) > 0


def test_one_side_may_have_no_rows(folder):
    data = read_manifest(_write(folder / "m.csv", "image,label,split\npictures/a.png,cat,test\npictures/b.png,ant,Val\n"))
    assert (len(data.train), len(data.eval), data.classes) == (0, 2, ("ant", "cat"))
    assert [row["label"] for row in data.eval] == [1, 0]


def test_missing_manifest_and_unknown_kind(folder):
    with pytest.raises(FileNotFoundError, match="gone.csv: no such manifest"):
        read_manifest(folder / "gone.csv")
    with pytest.raises(FileNotFoundError, match="pictures: a folder, not a manifest file"):
        read_manifest(folder / "pictures")
    assert _refused(folder / "m.xlsx", "") == "a manifest ends in .csv, .tsv, .jsonl, .parquet, not in .xlsx"


@pytest.mark.parametrize("text", ["", "\n\n", "image,label\n", "image,label\n,\n"])
def test_no_rows(folder, text):
    assert _refused(folder / "m.csv", text) == "no rows"
    assert _refused(folder / "m.jsonl", "\n") == "no rows"


def test_too_few_columns(folder):
    expected = "expected two or more of: image (or filepath), caption (or title, text), label(s), columns of your own; optional id, split"
    assert _refused(folder / "m.csv", "file,split\na,train\n") == f"the columns are file, split; {expected}"
    assert _refused(folder / "m.csv", "image,id\na,b\n") == f"the columns are image, id; {expected}"
    assert _refused(folder / "m.csv", "image;label\na;b\n") == f"the columns are image;label; {expected}"
    assert _refused(folder / "m.jsonl", '{"image": "a"}\n{"index": 1}\n') == f"the columns are image, index; {expected}"
    assert _refused(folder / "m.csv", "image,label,caption\npictures/a.png,,\n") == f"caption and label empty in every row; {expected}"
    assert _refused(folder / "m.csv", "image,label,Label\na,b,c\n") == "line 1: the column 'label' is there twice"
    told = _refused(folder / "m.csv", "file,label\npictures/a.png,b\n")
    assert told == "there is no column image (or filepath), and file names pictures; call that one image"


def test_empty_image_cell(folder):
    assert _refused(folder / "m.csv", "image,label\npictures/a.png,x\n\n ,x\n") == "line 4: image is empty"
    assert _refused(folder / "m.jsonl", '{"filepath": "pictures/a.png", "label": 1}\n{"label": 1}\n') == "line 2: filepath is empty"
    told = _refused(folder / "m.csv", "image,age,label,split\npictures/a.png,3,x,train\n,4,y,train\n,,z,train\n")
    assert told == "line 4: image and age are empty"


def test_missing_file(folder, monkeypatch):
    start = "image,caption\npictures/a.png,x\n"
    gone = folder / "pictures" / "gone.png"
    assert _refused(folder / "m.csv", f"{start}pictures/gone.png,x\n") == f"line 3: {gone}: no such file"
    assert _refused(folder / "m.csv", f"{start}pictures/b.jpg,x\n").endswith("b.jpg: no such file; did you mean 'b.png'?")
    assert _refused(folder / "m.csv", f"{start}images/b.png,x\n").endswith(f"no such file; there is no folder {folder / 'images'}")
    monkeypatch.chdir(folder / "pictures")
    told = _refused(folder / "m.csv", f"{start}d.png,x\n")
    assert told.endswith("d.png: no such file; paths are relative to the manifest, 'd.png' is there from the current folder")


def test_a_line_number_counts_lines_and_not_rows(folder):
    text = 'image,caption\r\n\r\npictures/a.png,"over\r\nthree\r\nlines"\r\npictures/b.png,x\u2028y\r\ngone.png,"z\r\n"\r\n'
    assert _refused(folder / "m.csv", text).startswith(f"line 7: {folder / 'gone.png'}: no such file")


def test_a_file_that_is_no_picture(folder):
    (folder / "notes.png").write_text("hello")
    told = _refused(folder / "m.csv", "image,label\npictures/a.png,x\nnotes.png,x\n")
    assert told == f"line 3: {folder / 'notes.png'}: not a picture in a format that Pillow knows"


def test_a_picture_that_breaks_later_is_told_with_its_line(folder):
    manifest = _write(folder / "m.csv", "image,label,split\npictures/a.png,x,train\npictures/b.png,x,train\n")
    data = read_manifest(manifest)
    content = (folder / "pictures" / "b.png").read_bytes()
    (folder / "pictures" / "b.png").write_bytes(content[:-30])
    data.train[0]
    with pytest.raises(ValueError) as caught:
        data.train[1]
    assert str(caught.value).startswith(f"{manifest}, line 3: {folder / 'pictures' / 'b.png'}: ")


def test_unknown_split(folder):
    expected = "expected train, eval, val, valid, validation, test"
    start = "image,label,split\npictures/a.png,x,train\n"
    assert _refused(folder / "m.csv", f"{start}pictures/b.png,x,dev\n") == f"line 3: split 'dev'; {expected}"
    assert _refused(folder / "m.csv", f"{start}pictures/b.png,x,\n") == f"line 3: split ''; {expected}"


def test_a_label_that_no_training_line_has(folder):
    start = "image,label,caption,split\npictures/a.png,house,x,train\n"
    told = _refused(folder / "m.csv", f"{start}pictures/b.png,houses,x,test\n")
    assert told == "line 3: the label 'houses' is for eval and no training line has it; did you mean 'house'?"
    told = _refused(folder / "m.csv", "image,label,caption,split\npictures/a.png,,x,train\npictures/b.png,ant,x,test\n")
    assert told == "line 3: the label 'ant' is for eval and no training line has it; none of them has a label"


def test_ragged_row(folder):
    start = "image,caption\npictures/a.png,x\n"
    assert _refused(folder / "m.csv", f"{start}pictures/b.png\n") == "line 3: 1 cells, expected 2 (image, caption)"
    told = _refused(folder / "m.csv", f"{start}pictures/b.png,a cat, asleep\n")
    assert told == "line 3: 3 cells, expected 2 (image, caption); a cell with a comma inside needs quotes"
    told = _refused(folder / "m.tsv", "image\tcaption\npictures/b.png\ta\tb\n")
    assert told == "line 2: 3 cells, expected 2 (image, caption); a cell with a tab inside needs quotes"


@pytest.mark.parametrize("cell", ['"a dog" barks', '"never closed'])
def test_bad_quotes(folder, cell):
    told = _refused(folder / "m.csv", f"image,caption\npictures/a.png,x\npictures/b.png,{cell}\npictures/c.png,y\n")
    assert told.startswith("line 3: ") and told.endswith("; a quote inside a quoted cell is written twice")


def test_bad_json(folder):
    start = '{"image": "pictures/a.png", "caption": "x"}\n\n'
    assert _refused(folder / "m.jsonl", f'{start}{{"image": "pictures/b.png",\n').startswith("line 3: not JSON: ")
    assert _refused(folder / "m.jsonl", f"{start}[1, 2]\n") == "line 3: expected an object with the keys of a row, got [1, 2]"
    told = _refused(folder / "m.jsonl", f'{start}{{"image": "pictures/b.png", "caption": ["x", "y"]}}\n')
    assert told == 'line 3: caption is ["x", "y"]; expected a string (several captions are several lines)'
    extra = read_manifest(_write(folder / "m.jsonl", '{"image": "pictures/a.png", "caption": "x\u2028y", "boxes": [1]}\n'))
    assert extra.train[0]["text"] == "x\u2028y" and extra.train[0]["boxes"] == [1]


def test_not_utf8(folder):
    told = _refused(folder / "m.csv", "image,caption\npictures/a.png,x\npictures/b.png,Kätzchen\n".encode("latin-1"))
    assert told.startswith("line 3: not UTF-8") and told.endswith("save the file as UTF-8")


def _sounds(folder: Path, names: str) -> None:
    for name in names:
        (folder / f"{name}.wav").write_bytes(b"RIFF")  # nothing opens it


def test_columns_of_ones_own(folder):
    _sounds(folder, "xy")
    text = (
        "index,image,caption,Age,city,sound,empty,split,\n0,pictures/a.png,one, 61 ,Bonn,x.wav,,train,7\n"
        "1,,two,,Bonn,./x.wav,,train,8\n2,pictures/a.png,,nan,,,,train,9\n3,,,,,y.wav,,test,10\n"
    )
    data = read_manifest(_write(folder / "m.csv", text))
    assert data.train.columns == ("image", "text", "age", "city", "sound") and data.eval.columns == ("sound",)
    x = str(folder / "x.wav")
    first, *others = data.train
    assert first.pop("image").size == (4, 4) and others[1].pop("image").size == (4, 4)
    assert [first, *others] == [
        {"text": "one", "age": "61", "city": "Bonn", "sound": x},
        {"text": "two", "city": "Bonn", "sound": x},
        {"age": "nan"},
    ]
    assert list(data.eval) == [{"sound": str(folder / "y.wav")}]
    assert data.train.ids.tolist() == [0, 0, 0]  # a picture joins the first and the third line, a sound the first and the second
    assert data.train.pictures.tolist() == [0, 1, 0]
    assert pickle.loads(pickle.dumps(data)).train[1]["sound"] == x


def test_values_are_told_without_opening_a_picture(folder, monkeypatch):
    data = read_manifest(_write(folder / "m.csv", "image,caption,age,split\npictures/a.png,one,61,train\npictures/b.png,two,,train\n"))
    monkeypatch.setattr("zoo.datasets.manifest.read_picture", lambda path: pytest.fail("opened"))
    assert list(data.train.values("age")) == ["61"] and list(data.train.texts()) == ["one", "two"]
    assert list(data.train.without_pictures()) == [{"text": "one", "age": "61"}, {"text": "two"}]


def test_no_pictures_at_all(folder):
    data = read_manifest(_write(folder / "m.csv", "caption,age\n" + "".join(f"{name},{ord(name)}\n" for name in "abcdefghij")))
    assert data.columns == ("text", "age") and data.about == "10 lines" and 1 <= len(data.eval) <= 5
    assert list(data.train)[0]["age"] == str(ord(list(data.train)[0]["text"]))
    data = read_manifest(_write(folder / "m.csv", "label,age\nx,1\ny,2\nx,1\n"))
    assert data.columns == ("label", "age") and data.classes == ("x", "y")


def test_captions_of_one_sound_are_held_out_together(folder):
    _sounds(folder, "abcdefghijklmnopqrst")
    lines = [f"{name}.wav,{name}{number}" for name in "abcdefghijklmnopqrst" for number in range(3)]
    data = read_manifest(_write(folder / "m.csv", "\n".join(["sound,caption", *lines])))
    held = set(data.eval.values("sound"))
    assert len(data.eval) == 3 * len(held) and 1 <= len(held) <= 9 and held.isdisjoint(data.train.values("sound"))
    assert len(set(data.eval.ids.tolist())) == len(held) and len(set(data.eval.pictures.tolist())) == len(data.eval)
    random.Random(0).shuffle(lines)
    assert set(read_manifest(_write(folder / "m.csv", "\n".join(["sound,caption", *lines]))).eval.values("sound")) == held


def test_a_column_of_files_has_files_only(folder):
    _sounds(folder, "x")
    told = _refused(folder / "m.csv", "sound,caption\nx.wav,one\n\n,two\nX.mp3,three\n")
    gone = folder / "X.mp3"
    assert told == f"line 5: {gone}: no such file; did you mean 'x.wav'? (sound is a column of files, as its first cell is one)"
    data = read_manifest(_write(folder / "m.csv", f"sound,caption,split\ngone.wav,one,train\nx.wav,{'long ' * 900},train\n"))
    assert list(data.train.values("sound")) == ["gone.wav", "x.wav"]  # the first is no file, so these are words


ROWS_OF_NUMBERS = [
    {"image": "pictures/a.png", "label": 3, "age": 61, "height": 1.5, "known": True, "vector": [1.0, 2.5], "split": "train"},
    {"image": None, "label": 4, "age": None, "height": float("nan"), "known": False, "vector": [3.0, 4.0], "split": "train"},
]


def _parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("write", [_jsonl, _parquet])
def test_numbers_and_lists_stay_what_they_are(folder, write):
    data = read_manifest(write(folder / f"m.{write.__name__.strip('_')}", ROWS_OF_NUMBERS))
    assert data.classes == ("3", "4") and data.columns == ("image", "label", "age", "height", "known", "vector")
    first, second = data.train
    assert first.pop("image").size == (4, 4)
    for row, expected in ((first, [1.0, 2.5]), (second, [3.0, 4.0])):
        vector = row.pop("vector")
        assert vector.dtype == np.float32 and vector.tolist() == expected
    assert [first, second] == [{"label": 0, "age": 61, "height": 1.5, "known": True}, {"label": 1, "known": False}]


def test_parquet_says_what_is_wrong(folder):
    rows = [{"image": "pictures/a.png", "when": datetime.date(2024, 1, 2)}, {"image": "gone.png", "when": None}]
    with pytest.raises(ValueError, match=r"m.parquet, line 2: .*gone.png: no such file"):
        read_manifest(_parquet(folder / "m.parquet", rows))
    assert read_manifest(_parquet(folder / "m.parquet", rows[:1])).train[0]["when"] == "2024-01-02"
    assert _refused(folder / "m.parquet", "PAR1 but no").startswith("not a Parquet file that pyarrow reads: ")
    with pytest.raises(ValueError, match=r"line 1: caption is \[\"x\", \"y\"\]; expected a string"):
        read_manifest(_parquet(folder / "m.parquet", [{"image": "pictures/a.png", "caption": ["x", "y"]}]))


def test_parquet_without_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (folder / "m.parquet").write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install 'effnet-zoo\[parquet\]'"):
        read_manifest(folder / "m.parquet")


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the emoji pictures in ../shared/data are not there")
def test_real_pictures(tmp_path):
    with open(EMOJI / "emoji.csv", encoding="utf-8", newline="") as file:
        table = [row for row in csv.DictReader(file) if row["openmoji"] == row["noto"] == "1"][:200]
    rows = [
        {
            "image": str((EMOJI / vendor / f"{row['hexcode']}.png").resolve()),
            "caption": row["name"],
            "label": row["group"],
            "id": row["concept"],
        }
        for row in table
        for vendor in ("openmoji", "noto")
    ]
    data = read_manifest(_csv(tmp_path / "emoji.csv", rows))
    assert len(data.train) + len(data.eval) == len(rows) == 400
    assert set(data.classes) == {row["group"] for row in table}
    for split in (data.train, data.eval):
        assert len(split) > 20
        row = split[0]
        (source,) = [each for each in rows if each["image"] == split.read.paths[0]]
        assert row["text"] == source["caption"] and data.classes[row["label"]] == source["label"]
        assert row["image"].size == (72, 72) and np.asarray(row["image"])[0, 0].tolist() == [255, 255, 255]
    concepts = [{source["id"] for source in rows if source["image"] in split.read.paths} for split in (data.train, data.eval)]
    assert concepts[0].isdisjoint(concepts[1])

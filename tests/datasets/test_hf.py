"""Hugging Face datasets: a folder of parquet, what save_to_disk wrote, and the same read forward."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.build import open_data
from zoo.train.loader import PreparedRows, load
from zoo.train.sampler import Plan

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def picture(number: int) -> dict:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(held, "png")
    return {"bytes": held.getvalue(), "path": None}


def table(count: int, first: int = 0, **columns):
    features = {"image": datasets.Image(), **{name: feature for name, (feature, _) in columns.items()}}
    rows = [
        {"image": picture(number), **{name: value(number) for name, (_, value) in columns.items()}}
        for number in range(first, first + count)
    ]
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


LABEL = (datasets.ClassLabel(names=["cat", "dog", "hen"]), lambda number: number % 3)
TEXT = (datasets.Value("string"), lambda number: f"picture {number}")


def parquet(folder, **splits):
    folder.mkdir()
    for name, rows in splits.items():
        for shard in range(3):
            rows.shard(3, shard).to_parquet(folder / f"{name}-{shard:05}-of-00003.parquet")
    return folder


@pytest.fixture
def folder(tmp_path):
    return parquet(tmp_path / "data", train=table(20, label=LABEL, caption=TEXT), test=table(7, 100, label=LABEL, caption=TEXT))


def numbers(split) -> list[int]:
    return [int(np.asarray(row["image"])[0, 0, 0]) for row in split]


def test_a_folder_of_parquet(folder):
    data = open_data(f"hf:{folder}")
    assert numbers(data.train) == list(range(20)) and numbers(data.eval) == list(range(100, 107))
    assert data.classes == ("cat", "dog", "hen") and data.columns == ("image", "label", "text") and data.train.stretches is None
    assert data.train[4]["label"] == 1 and data.train[4]["text"] == "picture 4"
    assert list(data.eval.values("label")) == [number % 3 for number in range(100, 107)]
    assert numbers(open_data(data.name).train) == list(range(20))
    assert pickle.loads(pickle.dumps(data.train))[3]["text"] == "picture 3"


def test_what_save_to_disk_wrote(tmp_path):
    both = {"train": table(9, label=LABEL), "validation": table(3, 50, label=LABEL), "test": table(3, 90, label=LABEL)}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "saved")
    assert numbers(open_data(f"hf:{tmp_path}/saved").eval) == [50, 51, 52]
    assert numbers(open_data(f"hf:{tmp_path}/saved,eval=test").eval) == [90, 91, 92]
    assert numbers(open_data(f"hf:{tmp_path}/saved,train=test,eval=train").train) == [90, 91, 92]
    both["train"].save_to_disk(tmp_path / "one")
    data = open_data(f"hf:{tmp_path}/one")
    assert sorted(numbers(data.train) + numbers(data.eval)) == list(range(9))
    assert {row["label"] for row in data.train} == {0, 1, 2} == {row["label"] for row in data.eval}


def test_captions_of_an_item_are_rows_on_one_side(tmp_path):
    several = (datasets.List(datasets.Value("string")), lambda number: [f"{number} {word}" for word in "ab"[: 1 + number % 2]])
    table(10, captions=several).save_to_disk(tmp_path / "saved")
    data = open_data(f"hf:{tmp_path}/saved")
    assert len(data.train) + len(data.eval) == 15
    for split in (data.train, data.eval):
        for text, number in zip(split.texts(), numbers(split), strict=True):
            assert text.split()[0] == str(number)
        assert len(set(split.pictures.tolist())) == len(set(numbers(split)))
    assert not set(numbers(data.train)) & set(numbers(data.eval))


@pytest.mark.parametrize("with_id", [False, True])
def test_items_with_one_picture_are_one_thing_and_on_one_side(tmp_path, with_id):
    """Also where there is an id and it is that of the caption."""
    more = {"id": (datasets.Value("int64"), lambda number: number)} if with_id else {}
    rows = [{**row, "image": picture(number // 2)} for number, row in enumerate(table(30, caption=TEXT, **more))]
    datasets.Dataset.from_list(rows, features=table(1, caption=TEXT, **more).features).save_to_disk(tmp_path / "saved")
    data = open_data(f"hf:{tmp_path}/saved")
    assert not set(numbers(data.train)) & set(numbers(data.eval)) and len(data.eval) >= 2
    for split in (data.train, data.eval):
        assert split.pictures.tolist() == split.ids.tolist() and len(set(split.ids.tolist())) == len(split) / 2


def test_columns_may_have_other_names_and_labels_be_words(tmp_path):
    rows = table(
        12,
        animal=(datasets.Value("string"), lambda number: ("hen", "ant")[number % 2]),
        says=TEXT,
        age=(datasets.Value("int64"), lambda n: n),
    )
    rows.rename_column("image", "photo").save_to_disk(tmp_path / "saved")
    data = open_data(f"hf:{tmp_path}/saved,label=animal,text=says")
    assert data.classes == ("ant", "hen") and data.columns == ("image", "label", "text", "age")
    for split in (data.train, data.eval):
        for number, row in zip(numbers(split), split, strict=True):
            assert (row["age"], row["text"], row["label"]) == (number, f"picture {number}", (number + 1) % 2)


def test_labels_may_be_several_and_minus_one_is_none(tmp_path):
    names = datasets.ClassLabel(names=["x", "y", "z"])
    saved = {"train": table(4, tags=(datasets.List(names), lambda number: [[0, 2], [], [1], [2]][number]))}
    saved["test"] = saved["train"]
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "many")
    data = open_data(f"hf:{tmp_path}/many")
    assert data.multi_label and data.classes == ("x", "y", "z")
    assert [row["labels"] for row in data.train] == [(0, 2), (), (1,), (2,)]
    table(3, label=(names, lambda number: number - 1)).save_to_disk(tmp_path / "one")
    data = open_data(f"hf:{tmp_path}/one")
    assert sorted(row.get("label", -1) for split in (data.train, data.eval) for row in split) == [-1, 0, 1]


class Number:
    def __call__(self, row):
        return {"number": int(np.asarray(row["image"])[0, 0, 0])}


def collate(rows):
    return [(row["index"], row["number"]) for row in rows]


def test_read_forward_it_has_the_same_rows_in_any_number_of_workers(folder):
    """A loader's workers share an IterableDataset's shards among themselves when it is iterated: rows would then be missing."""
    here, data = open_data(f"hf:{folder}"), open_data(f"hf:{folder},streaming=true,size=20,eval_size=7")
    assert data.train.stretches == (7, 7, 6) and data.classes == here.classes and data.columns == here.columns
    assert numbers(data.train) == numbers(here.train) and list(data.eval.texts()) == list(here.eval.texts())
    assert open_data(f"hf:{folder},streaming=true").train.stretches == (7, 7, 6)  # counted
    told = []
    for workers in (0, 2):
        plan = Plan(20, 4, 1, stretches=data.train.stretches)
        batches = list(load(PreparedRows(data.train, Number(), 0), plan, collate, workers=workers, pin=False))
        told.append([row for batch in batches for row in batch])
        assert all(index == number for index, number in told[-1])
    assert told[0] == told[1] and len({index for index, _ in told[0]}) == 20


def test_a_classifier_learns_from_it(folder, tmp_path):
    data = open_data(f"hf:{folder}")
    task = zoo.create_task("effnet_none_test", data, img_size=32)
    metrics = zoo.fit(task, data.train, data.eval, zoo.TrainConfig(epochs=1, out=str(tmp_path / "run")), about={"data": data.name})
    assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize(
    "string, told",
    [
        ("hf:{0}/gone", "no such folder"),
        ("hf:{0},eval=tests", "there is no split 'tests'; did you mean 'test'"),
        ("hf:{0},image=imagee", "there is no column 'imagee'; did you mean 'image'"),
        ("hf:{0},image=caption", r"image: the column 'caption' holds Value.*expected pictures"),
        ("hf:{0},text=label", r"text: the column 'label' holds ClassLabel.*expected texts"),
        ("hf:{0},size=10", "size is for streaming=true"),
        ("hf:{0},streaming=yes", "streaming: expected true or false, got 'yes'"),
        ("hf:{0},train=test,eval=test", "test is for training and for eval"),
        ("hf:{0},streamin=true", "hf: has no option 'streamin'; did you mean 'streaming'"),
    ],
)
def test_what_is_wrong_with_the_string_is_told(folder, string, told):
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        open_data(string.format(folder))


def test_a_dataset_of_the_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="^data 'hf:nobody/none': .*nobody/none.*") as raised:
        open_data("hf:nobody/none")
    assert "\n" not in str(raised.value)


def test_a_broken_picture_is_named_by_its_row(tmp_path):
    rows = [{"image": {"bytes": b"no picture", "path": None}, "label": 0}, {"image": picture(3), "label": 1}]
    made = datasets.Dataset.from_list(rows, features=datasets.Features({"image": datasets.Image(), "label": LABEL[0]}))
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="saved, train, row 0: not a picture in a format that Pillow knows"):
        open_data(f"hf:{tmp_path}/saved").train[0]


def test_without_the_library_the_extra_is_named(monkeypatch, folder):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'effnet-zoo\[datasets\]'"):
        open_data(f"hf:{folder}")

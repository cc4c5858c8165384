"""The contract of rows: what a Split answers, and that it travels to another process."""

import pickle

import numpy as np
import pytest

from zoo.datasets import Data, Row, Split
from zoo.datasets.data import as_split


def _square(index: int) -> Row:
    return {"text": str(index * index)}


def test_rows_are_read_when_asked_for():
    asked = []

    def read(index: int) -> Row:
        asked.append(index)
        return {"text": str(index)}

    split = Split(3, read, ("text",))
    assert len(split) == 3 and asked == []
    assert split[-1] == {"text": "2"} and asked == [2]
    assert [row["text"] for row in split] == ["0", "1", "2"]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"row {index} of 3"):
            split[index]


def test_every_row_is_its_own_unless_said_otherwise():
    split = Split(3, _square)
    assert split.ids.tolist() == split.pictures.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"ids: expected 3 integers, one a row, got shape \(2,\)"):
        Split(3, _square, ids=np.array([0, 0]))


def test_take_keeps_what_is_known_of_the_rows_and_can_be_pickled():
    split = Split(4, _square, ("text",), ids=np.array([7, 7, 8, 9]), pictures=np.array([1, 2, 3, 4])).take([3, 0]).take([1, 0, 1])
    for each in (split, pickle.loads(pickle.dumps(split))):
        assert [row["text"] for row in each] == ["0", "9", "0"]
        assert each.ids.tolist() == [7, 9, 7] and each.pictures.tolist() == [1, 4, 1]
        assert each.columns == ("text",)


def test_columns_of_both_splits():
    data = Data("x", Split(1, _square, ("image", "text")), Split(1, _square, ("image", "label")))
    assert data.columns == ("image", "text", "label")


def test_texts_without_opening_the_pictures():
    def read(index):
        raise AssertionError("the picture was opened")

    split = Split(3, read, ("image", "text"), cells=[{"text": "a", "age": 3}, {}, {"text": "c"}].__getitem__)
    assert list(split.texts()) == ["a", "", "c"] and list(split.take([2, 0]).texts()) == ["c", "a"]
    assert list(split.values("text")) == ["a", "c"] and list(split.take([2, 0]).values("age")) == [3] and list(split.values("x")) == []
    with pytest.raises(AssertionError, match="the picture was opened"):
        list(split.values("image"))
    plain = Split(2, [{"text": "x"}, {}].__getitem__, ("text",))
    assert list(plain.texts()) == ["x", ""] and list(plain.values("text")) == ["x"]


def test_plain_rows_are_a_split():
    data = Data("mine", [{"text": "a", "label": 0}], [])
    assert data.columns == ("text", "label") and data.train[0] == {"text": "a", "label": 0} and len(data.eval) == 0
    assert as_split(data.train) is data.train
    assert as_split([{"image": 1}, {"text": "a", "image": 2}]).columns == ("image", "text")  # the first row lacks a modality

"""Calibration rows: of the training split, prepared as for evaluation, the same ones every time."""

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.compress.quantize import calibration
from zoo.datasets import Split
from zoo.datasets.picture import BrokenPicture


def numbered(count, columns=("image", "label")):
    return Split(count, lambda index: {"image": Image.new("L", (4, 4), index), "label": 0}, columns)


def prepare(pictures):
    return torch.stack([torch.from_numpy(np.array(each)).float()[None] for each in pictures])


def told(batches):
    return [int(row[0, 0, 0]) for batch in batches for row in batch]


def test_the_same_rows_in_the_same_order_and_none_twice():
    one, other = (calibration(numbered(100), prepare, rows=40) for _ in range(2))
    assert [told(each) for each in one] == [told(each) for each in other]
    some, held_out = map(told, one)
    assert (len(some), len(held_out)) == (30, 10) and len({*some, *held_out}) == 40
    assert some != sorted(some) and max(some) > 50  # from the whole split, which may be sorted by class
    torch.manual_seed(5)
    assert told(calibration(numbered(100), prepare, rows=40)[0]) == some  # whatever else was random


def test_fewer_rows_than_asked_for():
    some, held_out = calibration(numbered(5), prepare)
    assert sorted(told(some) + told(held_out)) == [0, 1, 2, 3, 4]


def test_too_few():
    with pytest.raises(ValueError, match="calibration_rows: expected at least 2, .* got 1"):
        calibration(numbered(5), prepare, rows=1)
    with pytest.raises(ValueError, match="expected at least 2 training rows with image, got 0"):
        calibration(numbered(0), prepare)
    with pytest.raises(ValueError, match="expected at least 2 training rows with photo, got 0"):
        calibration(numbered(5), prepare, "photo")


def test_pictures_that_cannot_be_read():
    def read(index):
        if index == 3:
            raise BrokenPicture("3.png", "cut off")
        return {"image": Image.new("L", (4, 4), index)}

    split = Split(6, read, ("image",))
    with pytest.raises(BrokenPicture):
        calibration(split, prepare)
    some, held_out = calibration(split, prepare, broken="skip")
    assert sorted(told(some) + told(held_out)) == [0, 1, 2, 4, 5]


def test_no_augmentation():
    data = zoo.open_data("digits")
    task = zoo.create_task("effnet_none_test", data)
    (part,) = __import__("zoo.deploy", fromlist=["parts"]).parts(task)[0]
    one, other = (calibration(data.train, part.prepare, rows=8)[0][0] for _ in range(2))
    assert torch.equal(one, other) and one.shape == (6, 3, 32, 32)

"""digits against scikit-learn's own arrays, counted without the split that made it."""

import pickle
import sys

import numpy as np
import pytest

from registry import DATASETS
from zoo.datasets.digits import digits

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def test_every_digit_once_on_one_side():
    data = DATASETS["digits"]()
    source = sklearn_datasets.load_digits()
    assert (len(data.train), len(data.eval), data.classes) == (1437, 360, tuple("0123456789"))
    assert (data.img_size, data.augment, data.columns) == (32, "shift", ("image", "label"))

    def fingerprint(pixels: np.ndarray, label: int) -> tuple:
        return (int(label), *np.asarray(pixels, dtype=int).ravel())

    rows = [*data.train, *data.eval]
    assert {row["image"].mode for row in rows} == {"RGB"} and {row["image"].size for row in rows} == {(8, 8)}
    got = sorted(fingerprint(np.round(np.asarray(row["image"])[..., 0] * (16 / 255)), row["label"]) for row in rows)
    assert got == sorted(fingerprint(image, label) for image, label in zip(source.images, source.target, strict=True))
    assert max(np.asarray(row["image"]).max() for row in rows) == 255

    share = np.bincount([row["label"] for row in data.eval]) / np.bincount(source.target)
    assert np.abs(share - 0.2).max() < 0.005


def test_the_split_is_fixed():
    first, second = digits(), digits()
    assert all(a["label"] == b["label"] and a["image"] == b["image"] for a, b in zip(first.eval, second.eval, strict=True))
    assert [row["label"] for row in first.eval.take(range(20))] == [1, 4, 8, 6, 5, 9, 9, 1, 3, 2, 2, 2, 0, 7, 4, 8, 1, 5, 3, 9]
    copy = pickle.loads(pickle.dumps(first))
    assert copy.train[5]["image"] == first.train[5]["image"]


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'the dataset "digits" comes with scikit-learn: pip install "effnet-zoo\[demo\]"'):
        digits()

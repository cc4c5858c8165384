"""Rows drawn so that every class comes as often: a function of (seed, epoch), exact on resume."""

import numpy as np
import pytest

import zoo
from zoo.datasets import Split
from zoo.train.sampler import Plan, balanced

LABELS = [0] * 900 + [1] * 90 + [2] * 10


def rows(labels):
    return Split(len(labels), lambda index: {"label": labels[index]}, ("label",))


def test_every_class_is_drawn_as_often():
    weights = balanced(rows(LABELS))
    assert np.allclose(np.bincount(LABELS, weights), 1)
    plan = Plan(1000, 100, 20, seed=3, weights=weights)
    drawn = np.bincount([LABELS[row] for batch in plan for _, row in batch])
    expected = 20 * 1000 / 3
    assert np.all(np.abs(drawn - expected) < 5 * np.sqrt(expected))
    plain = np.bincount([LABELS[row] for batch in Plan(1000, 100, 20, seed=3) for _, row in batch])
    assert plain.tolist() == [18000, 1800, 200]  # the control


def test_the_rows_are_a_function_of_seed_and_epoch():
    weights = balanced(rows(LABELS))
    whole = list(Plan(1000, 100, 3, seed=3, weights=weights))
    assert whole[13:] == list(Plan(1000, 100, 3, seed=3, weights=weights, start=13))
    assert whole != list(Plan(1000, 100, 3, seed=4, weights=weights))
    assert [row for _, row in whole[0]] != [row for _, row in whole[10]]
    shares = [list(Plan(1000, 50, 3, seed=3, weights=weights, rank=rank, world=2)) for rank in (0, 1)]
    for together, one, two in zip(whole, *shares, strict=True):
        assert sorted(together) == sorted(one + two)


def test_rows_need_a_class(data):
    for wrong in ([0, None], [0, [1, 2]]):
        split = Split(2, lambda index, wrong=wrong: {"label": wrong[index]}, ("label",))
        with pytest.raises(ValueError, match="balanced needs one class"):
            balanced(split)
    with pytest.raises(ValueError, match="sample: expected one of all, balanced, got 'even'"):
        zoo.TrainConfig(sample="even")


def test_the_loop_draws_them(data):
    seen = []
    columns = ("image", "label", "text")

    class Read:
        def __call__(self, index):
            seen.append(index)
            return data.train.read(index)

    few = data.train.take([*range(0, 48, 2), 1])  # one bright picture beside 24 dark ones
    split = Split(len(few), lambda index: seen.append(index) or few.read(index), columns, cells=few.read)
    zoo.fit(zoo.create_task("effnet_cbam_test", data), split, None, zoo.TrainConfig(epochs=4, batch_size=25, sample="balanced"))
    assert 25 < seen.count(24) < 75

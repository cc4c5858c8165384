import random

import numpy as np
import pytest
import torch

from zoo.datasets import Split
from zoo.train.loader import InOrder, PreparedRows, load
from zoo.train.randomness import seed_everything, seeded
from zoo.train.sampler import Plan


def noisy(row):
    return {"x": row["x"] + random.random() + float(np.random.rand()) + float(torch.rand(()))}


def read(index):
    return {"x": float(index)}


def collate(rows):
    return torch.tensor([row["x"] for row in rows])


def batches(workers, start=0):
    rows = PreparedRows(Split(20, read, ("x",)), noisy, seed=5)
    return [batch for batch in load(rows, Plan(20, 4, 2, seed=5, start=start), collate, workers=workers, pin=False)]


def test_neither_workers_nor_a_restart_change_a_batch():
    alone = batches(0)
    assert len(alone) == 10
    assert all(torch.equal(one, two) for one, two in zip(alone, batches(2), strict=True))
    assert all(torch.equal(one, two) for one, two in zip(alone[7:], batches(0, start=7), strict=True))


def test_a_row_is_augmented_anew_every_epoch():
    rows = PreparedRows(Split(20, read, ("x",)), noisy, seed=5)
    assert rows[(0, 3)] == rows[(0, 3)] != rows[(1, 3)]
    assert PreparedRows(rows.split, noisy, seed=6)[(0, 3)] != rows[(0, 3)]


def test_seeded_leaves_the_random_state_as_it_was():
    seed_everything(1)
    expected = (random.random(), np.random.rand(), torch.rand(2).tolist())
    seed_everything(1)
    with seeded(9, 9):
        inside = random.random(), torch.rand(()).item()
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == expected
    with seeded(9, 9):
        assert (random.random(), torch.rand(()).item()) == inside


def test_loading_draws_nothing_from_the_global_generator():
    seed_everything(1)
    expected = torch.rand(3)
    seed_everything(1)
    batches(0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_in_order_takes_every_row_once(world):
    taken = [row for rank in range(world) for batch in InOrder(11, 4, rank, world) for _, row in batch]
    assert sorted(taken) == list(range(11))

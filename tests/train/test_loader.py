import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest
import torch

from zoo.datasets import Split
from zoo.train import loader
from zoo.train.loader import InOrder, PreparedRows, load, stream
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


def signalled(send):
    """What is left of ten batches when the workers of a stream get signals after the first."""
    rows = PreparedRows(Split(20, read, ("x",)), noisy, seed=5)
    before = set(multiprocessing.active_children())
    with closing(stream(load(rows, Plan(20, 4, 2, seed=5), collate, workers=2, pin=False))) as batches:
        next(batches)
        workers = set(multiprocessing.active_children()) - before
        assert len(workers) == 2
        send([worker.pid for worker in workers])
        left = len(list(batches))
    assert not any(worker.is_alive() for worker in workers)
    return left


def test_a_worker_leaves_the_signals_of_others_to_its_parent():
    """torchrun and schedulers send SIGTERM to the workers too; the parent, which gets it as well, still wants to finish its step."""

    def send(workers):
        for number in ("-TERM", "-INT"):
            subprocess.run(["kill", number, *map(str, workers)], check=True)

    assert signalled(send) == 9


def unguarded(log):
    sys.stderr = open(log, "w", buffering=1)
    loader._leave_signals_to_the_parent, loader._started = (lambda worker: None), iter
    signalled(lambda workers: [os.kill(worker, signal.SIGTERM) for worker in workers])


def test_without_that_the_parent_fails(tmp_path):
    """In a process of its own: torch raises the error wherever the parent is when a worker dies, even while it writes one down."""
    process = multiprocessing.get_context("fork").Process(target=unguarded, args=(str(tmp_path / "log"),))
    process.start()
    process.join(60)
    said = (tmp_path / "log").read_text()
    assert process.exitcode not in (0, None) and "in signalled" in said, (process.exitcode, said)


def stuck(row):
    time.sleep(60)


def test_a_worker_that_hangs_ends_when_its_parent_asks():
    rows = PreparedRows(Split(20, read, ("x",)), stuck, seed=5)
    before = set(multiprocessing.active_children())
    iterator = iter(load(rows, Plan(20, 4, 2, seed=5), collate, workers=1, pin=False))
    (worker,) = set(multiprocessing.active_children()) - before
    time.sleep(0.5)
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        next(iterator)


def test_a_closed_stream_has_no_workers_even_while_its_error_is_held():
    rows = PreparedRows(Split(20, read, ("x",)), noisy, seed=5)
    before = set(multiprocessing.active_children())
    with pytest.raises(KeyError) as held, closing(stream(load(rows, Plan(20, 4, 2), collate, workers=1, pin=False))) as batches:
        next(batches)
        raise KeyError("anything")
    assert held.value and set(multiprocessing.active_children()) == before

"""Batches: who comes together is computed together, and nobody pays for another."""

import threading
import time
from concurrent.futures import wait

import pytest

from zoo.serve import Batcher
from zoo.serve.batcher import QueueFull


class Sizes(list):
    """A compute that doubles, and keeps the sizes of its batches; `gate` holds it up."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items):
        self.append(list(items))
        assert self.gate.wait(10)
        return [2 * each for each in items]


@pytest.fixture
def compute():
    return Sizes()


def test_those_who_wait_are_one_batch(compute):
    batcher = Batcher(compute, size=4, wait=0, queue=100)
    compute.gate.clear()
    first = batcher.submit(0)
    while not compute:
        time.sleep(0.001)
    rest = [batcher.submit(number) for number in range(1, 8)]
    compute.gate.set()
    assert [each.result(10) for each in [first, *rest]] == [2 * number for number in range(8)]
    assert compute == [[0], [1, 2, 3, 4], [5, 6, 7]]
    batcher.close()


def test_the_first_waits_for_others_and_no_longer_than_it_takes(compute):
    batcher = Batcher(compute, size=3, wait=30, queue=100)
    began = time.monotonic()
    futures = [batcher.submit(number) for number in range(3)]
    assert [each.result(10) for each in futures] == [0, 2, 4] and compute == [[0, 1, 2]]
    assert time.monotonic() - began < 10  # the batch was full: nobody waited for the thirty seconds
    batcher.close()


def test_one_alone_does_not_wait_for_ever(compute):
    batcher = Batcher(compute, size=3, wait=0.05, queue=100)
    began = time.monotonic()
    assert batcher.submit(7).result(10) == 14
    assert time.monotonic() - began >= 0.05
    batcher.close()


def test_where_nobody_else_is_coming_nobody_waits(compute):
    coming = [1]
    batcher = Batcher(compute, size=3, wait=30, queue=100, coming=lambda: coming[0])
    assert batcher.submit(1).result(10) == 2
    coming[0] = 2
    futures = [batcher.submit(number) for number in range(2)]
    assert [each.result(10) for each in futures] == [0, 2] and compute == [[1], [0, 1]]
    batcher.close()


def test_a_failure_is_of_the_one_that_failed():
    def compute(items):
        if 3 in items:
            raise ValueError("three")
        return items

    batcher = Batcher(compute, size=8, wait=0.2, queue=100)
    futures = [batcher.submit(number) for number in range(5)]
    wait(futures, 10)
    assert [each.result() for number, each in enumerate(futures) if number != 3] == [0, 1, 2, 4]
    with pytest.raises(ValueError, match="three"):
        futures[3].result()
    assert batcher.submit(9).result(10) == 9  # it lives
    batcher.close()


def test_as_many_answers_as_items():
    batcher = Batcher(lambda items: items[1:], size=1, wait=0, queue=10)
    with pytest.raises(RuntimeError, match="1 items, 0 answers"):
        batcher.submit(1).result(10)
    batcher.close()


def test_who_has_gone_is_dropped_and_makes_room(compute):
    batcher = Batcher(compute, size=1, wait=0, queue=2)
    compute.gate.clear()
    first = batcher.submit(0)
    while not compute:
        time.sleep(0.001)
    gone, stays = batcher.submit(1), batcher.submit(2)
    with pytest.raises(QueueFull, match="2 wait already"):
        batcher.submit(3)
    assert gone.cancel()
    last = batcher.submit(4)
    compute.gate.set()
    assert [first.result(10), stays.result(10), last.result(10)] == [0, 4, 8]
    assert compute == [[0], [2], [4]]
    batcher.close()


def test_closing_answers_those_who_wait(compute):
    told = []
    batcher = Batcher(compute, size=2, wait=30, queue=10, told=told.append)
    futures = [batcher.submit(1)]
    batcher.close(10)
    assert futures[0].result(0) == 2 and told == [1]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(1)


def test_how_long_a_batch_has_been_computed(compute):
    batcher = Batcher(compute, size=1, wait=0, queue=10)
    assert batcher.busy == 0
    compute.gate.clear()
    future = batcher.submit(1)
    time.sleep(0.05)
    assert 0 < batcher.busy < 10
    compute.gate.set()
    future.result(10)
    batcher.close()
    assert batcher.busy == 0

import numpy as np
import pytest

from zoo.train.sampler import Plan


def keys(**how):
    return [key for batch in Plan(**how) for key in batch]


def test_an_epoch_takes_every_row_once():
    plan = Plan(size=12, batch_size=4, epochs=2)
    taken = keys(size=12, batch_size=4, epochs=2)
    assert len(plan) == 6 and plan.steps_per_epoch == 3
    for epoch in (0, 1):
        assert sorted(row for at, row in taken if at == epoch) == list(range(12))
    assert [row for at, row in taken if at == 0] != [row for at, row in taken if at == 1]


def test_rows_that_fill_no_step_are_left_out():
    assert len(keys(size=11, batch_size=4, epochs=1)) == 8


def test_the_order_is_a_function_of_the_seed():
    assert keys(size=50, batch_size=5, epochs=2, seed=3) == keys(size=50, batch_size=5, epochs=2, seed=3)
    assert keys(size=50, batch_size=5, epochs=2, seed=3) != keys(size=50, batch_size=5, epochs=2, seed=4)


@pytest.mark.parametrize("start", [0, 1, 3, 4, 7])
def test_going_on_is_the_rest_of_the_whole(start):
    whole = list(Plan(size=21, batch_size=5, epochs=2, accumulate=1))
    assert list(Plan(size=21, batch_size=5, epochs=2, accumulate=1, start=start)) == whole[start:]


def test_processes_and_micro_batches_share_a_step():
    alone = list(Plan(size=64, batch_size=16, epochs=1))
    parts = [list(Plan(size=64, batch_size=4, epochs=1, accumulate=2, rank=rank, world=2)) for rank in (0, 1)]
    for step, whole in enumerate(alone):
        shared = [key for part in parts for micro in part[2 * step : 2 * step + 2] for key in micro]
        assert sorted(shared) == sorted(whole) and len(shared) == len(whole)


def test_few_rows_make_one_small_step():
    plan = Plan(size=3, batch_size=32, epochs=2)
    assert plan.steps == 2 and [len(batch) for batch in plan] == [3, 3]
    with pytest.raises(ValueError, match="too few"):
        Plan(size=1, batch_size=32, epochs=1, accumulate=2)


def test_rows_are_spread():
    first = np.array([row for _, row in keys(size=1000, batch_size=10, epochs=1)])
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1

"""Several processes measure what one does, to the last bit and each row once; an error in one of them is told to the others at once."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo
from zoo.train.engine import Engine

pytestmark = pytest.mark.distributed
SCRIPT = Path(__file__).with_name("measures.py")


def script():
    spec = importlib.util.spec_from_file_location("measures", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=[2, 4])
def told(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("measured") / "told.pt"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(request.param), str(SCRIPT), str(out)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = torch.load(out, weights_only=True)
    assert found["world"] == request.param
    return found


@pytest.mark.parametrize("kind", ["classifier", "joint"])
def test_every_process_has_the_numbers_of_one(kind, told):
    expected = script().measured(kind, Engine("cpu"))
    assert told["found"][kind] == [expected] * told["world"]


def test_statistics_are_those_of_the_first_process():
    """The control: batch norms have learned something else in each process, and would measure something else."""
    alone = script()
    first, second = (zoo.evaluate(alone.task("classifier", rank), alone._runs().data().eval, engine=Engine("cpu")) for rank in (0, 1))
    assert first["loss"] != second["loss"]


def test_no_row_is_measured_twice_and_filled_plans_are_even(told):
    plain, filled = told["plans"]
    assert sorted(row for plan in plain for batch in plan for _, row in batch) == list(range(11))
    assert len({len(plan) for plan in filled}) == 1
    for few, even in zip(plain, filled, strict=True):
        assert even[: len(few)] == few and all(batch == filled[0][0] for batch in even[len(few) :])


def test_an_error_elsewhere_ends_the_waiting(told):
    """The unguarded wait ends only when the process that failed comes back; without torchrun, and if it hangs, that is never."""
    stays = script().STAYS
    assert told["waited"][False] > 0.9 * stays
    assert told["waited"][True] < 0.5 * stays

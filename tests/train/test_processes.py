"""A joint embedding in several processes: the gradients are those of one process with all rows, for every loss, holes and all."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from registry import LOSSES
from zoo.train.engine import Engine

SCRIPT = Path(__file__).with_name("processes.py")


def script():
    spec = importlib.util.spec_from_file_location("processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("world", [2, 4])
def test_gradients_are_those_of_one_process(world, tmp_path):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world), str(SCRIPT), str(tmp_path / "found.pt")]
    done = subprocess.run(
        [sys.executable, *command, *sorted(LOSSES)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    told = torch.load(tmp_path / "found.pt", weights_only=True)
    assert told["world"] == world
    alone = script()
    for loss in sorted(LOSSES):
        expected = alone.gradients(loss, 1, Engine("cpu"))
        assert any(each.abs().max() > 1e-3 for name, each in expected.items() if name != "value")
        for micro in (1, 2):
            found = told["found"][f"{loss} {micro}"]
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                torch.testing.assert_close(
                    found[name], gradient, atol=1e-12, rtol=1e-9, msg=lambda text, at=(loss, micro, name): f"{at}: {text}"
                )


def test_a_step_of_each_process_alone_would_be_another(monkeypatch):
    """The control: without the gathering, the mean of the processes' own gradients is not that of the whole."""
    alone = script()
    whole = alone.gradients("clip", 1, Engine("cpu"))["towers.text.layer.weight"]
    parts = []
    for rank in (0, 1):
        task = alone.make("clip")
        task.train()
        task.training_step([task.collate(alone.rows(list(range(16))[rank::2]))], Engine("cpu"))
        parts.append(task.joint.towers["text"].layer.weight.grad)
    mean = (parts[0] + parts[1]) / 2
    assert (mean - whole).norm() > 0.05 * whole.norm()

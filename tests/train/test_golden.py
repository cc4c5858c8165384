"""Runs that earlier code left half done: today's goes on from them, and ends where it ends by itself."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from zoo.train import checkpoint

GOLDEN = Path(__file__).with_name("golden")
RUNS = sorted(path.name for path in GOLDEN.iterdir() if (path / "checkpoints").is_dir())


def averaged(task):
    return task.get_trainable_module(ema=True).state_dict()


@pytest.mark.parametrize("run", RUNS)
def test_an_old_run_goes_on(tiny, run, tmp_path):
    out = shutil.copytree(GOLDEN / run, tmp_path / "run")
    assert checkpoint.newest(out / "checkpoints").contents[2]["step"] == 5
    taken, task = [], tiny.Tiny()
    task.after_step = lambda: taken.append(1)
    tiny.train(str(out), task, resume=True)
    assert len(taken) == 3
    whole = tiny.train(str(tmp_path / "whole"))
    for one, other in ((task.trainable_module.state_dict(), whole.trainable_module.state_dict()), (averaged(task), averaged(whole))):
        torch.testing.assert_close(one, other)  # not bit by bit: another machine made the first five steps
    logs = [[json.loads(line)["loss"] for line in (each / "metrics.jsonl").read_text().splitlines()] for each in (out, tmp_path / "whole")]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4) and len(logs[0]) == 2
    states = [checkpoint.newest(each / "checkpoints").contents[1]["optimizer"]["state"] for each in (out, tmp_path / "whole")]
    torch.testing.assert_close(*states)


def test_the_golden_runs_are_small_and_of_both_kinds():
    assert [(GOLDEN / run / "checkpoints" / "step-00000005" / "manifest.json").exists() for run in RUNS] == [False, True]
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*")) < 80_000


def test_another_start_would_end_elsewhere(tiny, tmp_path):
    """The control: the last three steps alone do not lead there."""
    out = shutil.copytree(GOLDEN / RUNS[-1], tmp_path / "run")
    shutil.rmtree(out / "checkpoints" / "step-00000004")
    path = out / "checkpoints" / "step-00000005"
    tensors, optimizer, state = checkpoint.read(path)
    tensors["model"]["0.weight"] += 0.01
    checkpoint.write(out / "checkpoints", 5, tensors, optimizer, state)
    task = tiny.train(str(out), resume=True)
    whole = tiny.train(None)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(task.trainable_module.state_dict(), whole.trainable_module.state_dict())

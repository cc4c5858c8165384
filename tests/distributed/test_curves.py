"""Several processes compute what one does with all rows: losses, what is measured, weights, their average, and the optimizer's state."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoo.train import checkpoint

pytestmark = pytest.mark.distributed
SCRIPT = Path(__file__).with_name("runs.py")

TIMES = {"seconds", "rows_per_second", "waiting", "saving"}  # of the clock, which is another in every run


def script():
    spec = importlib.util.spec_from_file_location("runs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EQUAL = [name for name in script().CASES if name != "classifier, neither"]
SAVED = ("model", "ema", "optimizer")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder, runs = tmp_path_factory.mktemp("alone"), script()
    for case in runs.CASES:
        runs.run(case, folder / case)
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def together(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"together{request.param}")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(request.param), str(SCRIPT), str(folder)]
    done = subprocess.run(
        [sys.executable, *command, *script().CASES, "move"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::UserWarning:zoo"},
    )
    assert done.returncode == 0, done.stderr
    for run in folder.iterdir():
        assert json.loads((run / "config.json").read_text())["zoo"]["processes"] == request.param
    return folder


def log(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def state(run: Path) -> dict[str, dict]:
    """Every tensor that the last checkpoint holds."""
    tensors, optimizer, _ = checkpoint.read(max((run / "checkpoints").glob("step-*")))
    moments = {f"{number}.{key}": value for number, held in optimizer["optimizer"]["state"].items() for key, value in held.items()}
    return {**tensors, "optimizer": moments}


def close(found, expected) -> None:
    """The same to nine digits, numbers and tensors in lists and dicts alike."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", EQUAL)
def test_they_compute_what_one_does(case, alone, together):
    found, expected = log(together / case), log(alone / case)
    assert len(found) == 2 and found[0]["loss"] != found[1]["loss"]
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for mine, its in zip(found, expected, strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-9)
        measured = {key: value for key, value in its.items() if key not in ("loss", "geometry")}
        assert {key: mine[key] for key in measured} == measured
    mine, its = state(together / case), state(alone / case)
    for part in SAVED:
        assert mine[part].keys() == its[part].keys()
        for name, tensor in its[part].items():
            torch.testing.assert_close(mine[part][name], tensor, rtol=1e-7, atol=1e-9, msg=lambda text, at=(part, name): f"{at}: {text}")


def test_with_statistics_of_their_own_rows_they_compute_something_else(alone, together):
    """The control: batch norms that neither share their statistics nor keep them see other rows."""
    found, expected = (log(folder / "classifier, neither") for folder in (together, alone))
    assert abs(found[-1]["loss"] - expected[-1]["loss"]) > 1e-3 * expected[-1]["loss"]


@pytest.mark.parametrize("name", ["whole", "sharded"])
def test_a_checkpoint_moves_between_sharded_and_whole_runs(name, together):
    moved, straight = state(together / f"joint, then {name}"), state(together / "joint, sharded")
    for part in SAVED:
        assert moved[part].keys() == straight[part].keys()
        for key, tensor in straight[part].items():
            torch.testing.assert_close(moved[part][key], tensor, rtol=1e-7, atol=1e-9, msg=lambda text, at=(part, key): f"{at}: {text}")

"""A launcher that started fewer processes together than it was asked for is found out before anything is trained."""

import os

import pytest

from zoo.train.launch import check_launch

TRAIN = ["-m", "zoo", "train"]


@pytest.mark.parametrize("program", [["/usr/bin/python3", "/usr/bin/accelerate", "launch"], ["python", "-m", "accelerate.commands.launch"]])
@pytest.mark.parametrize("asked", [["--num_processes", "4"], ["--num_processes=4"], ["--num-processes", "4"]])
def test_accelerate_started_one(program, asked):
    with pytest.raises(ValueError, match="asked for 4 processes and started one.*torchrun --nproc_per_node 4.*--multi_gpu"):
        check_launch(1, {}, [*program, "--cpu", *asked, *TRAIN])
    check_launch(4, {}, [*program, "--multi_gpu", *asked, *TRAIN])


@pytest.mark.parametrize(
    "parent",
    [
        [],
        ["bash"],
        ["accelerate", "launch", "--num_processes", "1", *TRAIN],
        ["accelerate", "launch", *TRAIN],
        ["python", "my_script.py", "--num_processes", "4"],
    ],
)
def test_one_process_that_was_meant_to_be_one(parent):
    check_launch(1, {}, parent)
    check_launch(1, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, parent)  # a batch script that starts torchrun later


def test_srun_started_eight_that_are_alone():
    with pytest.raises(ValueError, match="srun started 8 processes.*--ntasks-per-node=1"):
        check_launch(1, {"SLURM_STEP_NUM_TASKS": "8"}, [])
    check_launch(8, {"SLURM_STEP_NUM_TASKS": "8"}, [])


def test_the_engine_asks(monkeypatch):
    from zoo.train.engine import Engine

    monkeypatch.setitem(os.environ, "SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(ValueError, match="srun"):
        Engine("cpu")

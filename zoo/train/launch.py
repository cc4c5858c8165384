"""Whether as many processes work together as were asked for: some launchers start one and say nothing, or several that are each alone.

`accelerate launch --num_processes 2` starts one process where it sees no GPU, also with `--cpu`; with `--multi_gpu` it starts two, on a CPU
too. `srun -n 8 zoo train` starts eight that each believe to be alone, and that would all write the same run directory.
"""

import os
from collections.abc import Mapping, Sequence

import psutil

_HOW = "torchrun --nproc_per_node {0} -m zoo train ..., or accelerate launch --multi_gpu --num_processes {0} -m zoo train ..."


def check_launch(world: int, environment: Mapping[str, str] = os.environ, parent: Sequence[str] | None = None) -> None:
    """Compare the number of processes that work together with what the launcher was told.

    Args:
        world: processes that work together.
        environment: variables that launchers set.
        parent: the command line of the process that started this one; by default it is asked for.

    Raises:
        ValueError: more were asked for.
    """
    if world > 1:
        return
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks.isdecimal() and int(tasks) > 1:
        raise ValueError(
            f"srun started {tasks} processes that do not know of each other, and each would train alone, into the same directory; start "
            f"one a node (srun --ntasks-per-node=1), and let it be {_HOW.format('GPUS')}"
        )
    asked = _asked_of_accelerate(_parent() if parent is None else parent)
    if asked > 1:
        raise ValueError(
            f"accelerate was asked for {asked} processes and started one: without a GPU, or with --cpu, it does; start it as "
            f"{_HOW.format(asked)} (both work on a CPU)"
        )


def _parent() -> list[str]:
    try:
        parent = psutil.Process().parent()
        return parent.cmdline() if parent is not None else []
    except psutil.Error:  # it has ended, or is somebody else's
        return []


def _asked_of_accelerate(words: Sequence[str]) -> int:
    """What `--num_processes` says in the command line of `accelerate launch`; 1 in any other."""
    if not any(os.path.basename(word).startswith("accelerate") for word in words[:4]):
        return 1
    for number, word in enumerate(words):
        name, equals, value = word.replace("-", "_").partition("=")
        if name == "__num_processes":
            value = value if equals else next(iter(words[number + 1 :]), "")
            return int(value) if value.isdecimal() else 1
    return 1

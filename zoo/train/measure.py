"""A task's model measured over a split, as the loop does after every epoch.

Several processes share the batches out, and what the model makes of each goes to all of them, in the order of the batches. So every process
has the numbers of one process with all rows, none counts a row twice, and none waits for another until its patience is at an end.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..datasets.data import Row, Split, as_split
from ..progress import tracked
from .engine import Engine
from .loader import InOrder, PreparedRows, load
from .task import Task


@torch.no_grad()
def evaluate(
    task: Task,
    split: Sequence[Row],
    *,
    model: nn.Module | None = None,
    engine: Engine | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    what: str = "evaluate",
) -> dict[str, Any]:
    """Metrics of a task's model over a split, every row counted once.

    Args:
        task: what to evaluate.
        split: the rows.
        model: another copy of the task's model, such as its running average.
        engine: where; the best device there is by default.
        batch_size: rows at a time; twice the task's own by default.
        workers: processes that read rows.
        what: the words beside the progress bar.

    Raises:
        ValueError: no rows, or rows without a column that the task needs.
    """
    split = as_split(split)
    check_columns(task, split, "eval")
    engine = engine or Engine()
    model = model or task.trainable_module
    engine.place(task)
    was_training = model.training
    model.eval()
    engine.share_buffers(model)
    size = batch_size or 2 * task.default_batch_size
    plan = InOrder(len(split), size, engine.rank, engine.world, fill=task.in_step)
    loader = load(PreparedRows(split, task.prepare(False), 0), plan, task.collate, workers=workers, pin=engine.device.type == "cuda")

    def outputs() -> Iterator[dict[str, torch.Tensor]]:
        batches = iter(loader)
        total = math.ceil(len(split) / size)
        for first in tracked(range(0, total, engine.world), math.ceil(total / engine.world), what):
            batch = engine.together(lambda: next(batches, None))
            made = None if batch is None else task.outputs(engine.to_device(batch), model)
            if engine.world > 1:
                mine = made is not None and first + engine.rank < total
                made = {name: each.cpu() for name, each in made.items()} if mine else None  # type: ignore[union-attr]
            yield from (engine.to_device(each) for each in engine.everybodys(made) if each is not None)

    try:
        with engine.autocast():
            return task.measure(outputs(), split)
    finally:
        model.train(was_training)
        if was_training:
            task.train()


def check_columns(task: Task, split: Split, which: str) -> None:
    if not len(split):
        raise ValueError(f"the {which} split has no rows")
    task.check(split, which)

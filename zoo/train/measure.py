"""A task's model measured over a split, as the loop does after every epoch.

Several processes share the batches out, and what the model makes of each goes to all of them, in the order of the batches. So every process
has the numbers of one process with all rows, none counts a row twice, and none waits for another until its patience is at an end.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import nn

from ..datasets.data import Row, Split, as_split
from ..progress import tracked
from .broken import EVALUATED, LEFT_OUT, Broken, BrokenFiles
from .engine import Engine
from .loader import Batch, InOrder, PreparedRows, load, stream
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
    broken: str = "raise",
    tell: Callable[[Sequence[Broken], str], None] | None = None,
    before_batch: Callable[[], None] | None = None,
    listen: Callable[[Mapping[str, torch.Tensor]], None] | None = None,
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
        broken: "raise", or "skip" to leave out of the metrics what can not be read (a joint embedding: of a row only the picture); how many
            rows that were is `eval_broken`. "replace" skips too.
        tell: who is told which; the console by default.
        before_batch: called before every batch; what it raises ends the evaluation.
        listen: given what the model made of every batch, in order (`Task.outputs`), while it is being measured.

    Raises:
        BrokenPicture: a picture can not be read.
        ValueError: no rows, none that can be read, or rows without a column that the task needs.
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
    rows = PreparedRows(split, task.prepare(False), 0, broken=EVALUATED[broken], holes=task.holes)
    loader = load(rows, plan, task.collate, workers=workers, pin=engine.device.type == "cuda")
    found: list[Broken] = []

    def outputs(read: Iterator[Batch]) -> Iterator[dict[str, torch.Tensor]]:
        total = math.ceil(len(split) / size)
        for first in tracked(range(0, total, engine.world), math.ceil(total / engine.world), what):
            if before_batch is not None:
                before_batch()
            batch = engine.together(lambda: next(read, None))
            mine = first + engine.rank < total  # else it is there for the company
            lost = batch.pop("broken", ()) if batch is not None else ()
            found.extend(lost if mine else ())
            made = task.outputs(engine.to_device(batch), model) if batch else None
            if engine.world > 1:
                made = {name: each.cpu() for name, each in made.items()} if made is not None and mine else None
            for each in engine.everybodys(made):
                if each is not None:
                    if listen is not None:
                        listen(each)
                    yield engine.to_device(each)
        found[:] = engine.every(found)
        if len({each.row for each in found}) == len(split):
            raise ValueError(f"none of the {len(split):,} eval rows can be read; the first: {found[0].path}: {found[0].why}")

    try:
        with engine.autocast(), closing(stream(loader)) as read:
            metrics = task.measure(outputs(read), split)
    finally:
        model.train(was_training)
        if was_training:
            task.train()
    if broken == "raise":
        return metrics
    (tell or BrokenFiles().tell)(found, LEFT_OUT)
    return {**metrics, "eval_broken": len({each.row for each in found})}


def check_columns(task: Task, split: Split, which: str) -> None:
    if not len(split):
        raise ValueError(f"the {which} split has no rows")
    task.check(split, which)

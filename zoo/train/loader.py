"""Rows to batches: each row is read and augmented under its own seed, in this process or in workers."""

import math
import signal
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..datasets.data import Row, Split
from .randomness import seeded
from .sampler import Key

Batch = dict[str, Any]
EVAL_EPOCH = 0


class PreparedRows(Dataset):
    """`[(epoch, row)]` -> the row, prepared for its task, with its `id` and its `index`."""

    def __init__(self, split: Split, prepare: Callable[[Row], Row], seed: int):
        self.split, self.prepare, self.seed = split, prepare, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> Row:
        epoch, index = key
        with seeded(self.seed, epoch, index):
            return {**self.prepare(self.split[index]), "id": int(self.split.ids[index]), "index": index}


def _leave_ctrl_c_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def load(rows: PreparedRows, plan: Iterable[list[Key]], collate: Callable[[list[Row]], Batch], *, workers: int, pin: bool) -> DataLoader:
    """A loader that makes one batch of every list of the plan, in order."""
    own = torch.Generator().manual_seed(0)  # else the loader draws its base seed from the global generator, and with it from the run's
    return DataLoader(
        rows,
        batch_sampler=plan,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_leave_ctrl_c_to_the_parent,
        generator=own,
    )


class InOrder:
    """Every row once, in order: the plan of an evaluation. Each of `world` processes takes every world-th batch.

    Args:
        fill: a process that has no batch in the last round takes the first one again, so that all of them have as many.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1, fill: bool = False):
        firsts = list(range(rank * batch_size, size, batch_size * world))
        if fill and len(firsts) < math.ceil(size / (batch_size * world)):
            firsts.append(0)
        self.batches = [[(EVAL_EPOCH, row) for row in range(first, min(first + batch_size, size))] for first in firsts]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

"""Rows to batches: each row is read and augmented under its own seed, in this process or in workers."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
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


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C, torchrun and schedulers signal the workers as well, whose death would end the step that the parent wants to finish.

    A worker ends when its parent asks, by SIGTERM too; nobody but the sender tells one from the other. (It also ends when it sees, within
    five seconds, that there is no parent any more: torch's own watch.)
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_the_parent_asks, daemon=True).start()
    torch.set_num_threads(1)


def _end_when_the_parent_asks() -> None:
    parent = multiprocessing.parent_process()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != (parent and parent.pid):
        pass
    os._exit(0)


def stream(loader: DataLoader) -> Generator[Batch, None, None]:
    """The batches; the loader's workers end when this is closed (`contextlib.closing`), whatever else still holds on to an error."""
    yield from loader


def load(rows: PreparedRows, plan: Iterable[list[Key]], collate: Callable[[list[Row]], Batch], *, workers: int, pin: bool) -> DataLoader:
    """A loader that makes one batch of every list of the plan, in order."""
    own = torch.Generator().manual_seed(0)  # else the loader draws its base seed from the global generator, and with it from the run's
    return DataLoader(
        rows,
        batch_sampler=plan,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=own,
    )


class InOrder:
    """Every row once, in order: the plan of an evaluation. Each of `world` processes takes every world-th batch."""

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1):
        firsts = range(rank * batch_size, size, batch_size * world)
        self.batches = [[(EVAL_EPOCH, row) for row in range(first, min(first + batch_size, size))] for first in firsts]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

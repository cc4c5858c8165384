"""Rows to batches: each row is read and augmented under its own seed, in this process or in workers.

What becomes of a row whose picture can not be read is decided where the row is read: see `broken.py`.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..datasets.data import Row, Split
from ..datasets.picture import BrokenPicture
from .broken import Broken
from .randomness import seeded, untouched
from .sampler import Key

Batch = dict[str, Any]
EVAL_EPOCH = 0


_STAND_IN = 1  # beside (seed, epoch, index): another stream of random numbers than the augmentation's
_TRIES = 1000  # rows that may be broken one after the other before nothing stands in


class PreparedRows(Dataset):
    """`[(epoch, row)]` -> the row, prepared for its task, with its `id` and its `index`.

    Args:
        split, prepare: the rows, and what becomes of each.
        seed: of the augmentation.
        broken: what becomes of a row whose picture can not be read: "raise", "skip" or "replace".
        holes: under "skip" the row stays, without that picture; else it is left out.
        least: rows that are left in a batch; where so many are skipped that there are fewer, others stand in.
    """

    def __init__(
        self, split: Split, prepare: Callable[[Row], Row], seed: int, *, broken: str = "raise", holes: bool = False, least: int = 0
    ):
        self.split, self.prepare, self.seed = split, prepare, seed
        self.broken, self.holes, self.least = broken, holes, least

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> Row:
        with seeded(self.seed, *key):
            return self._finished(key[1], self.split[key[1]])

    def __getitems__(self, keys: Sequence[Key]) -> tuple[list[Row], list[Broken]]:
        """What torch's DataLoader asks for: the rows of a batch; and which of them could not be read."""
        rows, found, skipped = [], [], []
        with untouched():
            for key in keys:
                try:
                    rows.append(self[key])
                except BrokenPicture as error:
                    found.append(Broken.of(key[1], error))
                    if self.broken == "raise":
                        return [], found
                    if self.broken == "replace":
                        rows.append(self._stand_in(key))
                    elif self.holes:
                        rows.append(self._without(key, found))
                    else:
                        skipped.append(key)
            lacking = max(0, min(self.least, len(keys)) - len(rows))
            return rows + [self._stand_in(key) for key in skipped[:lacking]], found

    def _finished(self, index: int, row: Row) -> Row:
        try:
            return {**self.prepare(row), "id": int(self.split.ids[index]), "index": index}
        except BrokenPicture:
            raise
        except ValueError as error:
            raise ValueError(f"{self.split.place(index)}: {error}") from error

    def _stand_in(self, key: Key) -> Row:
        """Another row, the same for the same seed, epoch and index."""
        chance = np.random.Generator(np.random.PCG64([self.seed, *key, _STAND_IN]))
        for index in chance.integers(len(self.split), size=_TRIES).tolist():
            try:
                with seeded(self.seed, *key):
                    return self._finished(index, self.split[index])
            except BrokenPicture as error:
                last = error
        raise ValueError(f"{_TRIES:,} rows, drawn to stand in for row {key[1]}, can not be read either; the last: {last}")

    def _without(self, key: Key, found: list[Broken]) -> Row:
        """The row without what is broken in it; what else is found to be broken in it is added to `found`."""
        index = key[1]
        while True:
            gone = {each.path for each in found if each.row == index}
            try:
                raw = self.split[index]
            except BrokenPicture:  # its picture; a reader that can not tell the rest has nothing else
                raw = self.split.cells(index) if self.split.cells is not None else {}
            try:
                with seeded(self.seed, *key):
                    return self._finished(index, {name: value for name, value in raw.items() if not _names(value, gone)})
            except BrokenPicture as error:
                if error.path in gone:
                    raise
                found.append(Broken.of(index, error))


def _names(value: Any, paths: set[str]) -> bool:
    return isinstance(value, str | Path) and str(value) in paths


class _Collate:
    """The rows that were read, as one batch, beside what was not; a class, so that it travels to workers."""

    def __init__(self, collate: Callable[[list[Row]], Batch]):
        self.collate = collate

    def __call__(self, read: Any) -> tuple[Batch, list[Broken]]:
        rows, found = read  # what `__getitems__` returns, which torch takes for a list of rows
        return (self.collate(rows) if rows else {}), found


class Batches:
    """The batches of a loader, in order; one from which rows are missing says so under `broken`, and one that has none left has only that.

    Raises:
        BrokenPicture: in this process, also where a worker met it; unless the rows are skipped or replaced.
    """

    def __init__(self, loader: DataLoader, broken: str):
        self.loader, self.broken = loader, broken

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return self._told(_started(self.loader))  # the workers begin here, not with the first batch that is asked for

    def _told(self, read: Iterator[tuple[Batch, list[Broken]]]) -> Iterator[Batch]:
        for batch, found in read:
            if found and self.broken == "raise":
                raise found[0].error()
            if found:
                batch["broken"] = found
            yield batch


def _started(loader: DataLoader) -> Iterator[Any]:
    """Its iterator; the workers are born without ears for signals that their parent gets too, and learn what to make of them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def stream(loader: Iterable[Batch]) -> Generator[Batch, None, None]:
    """The batches; the loader's workers end when this is closed (`contextlib.closing`), whatever else still holds on to an error."""
    yield from loader


def load(rows: PreparedRows, plan: Iterable[list[Key]], collate: Callable[[list[Row]], Batch], *, workers: int, pin: bool) -> Batches:
    """A loader that makes one batch of every list of the plan, in order."""
    own = torch.Generator().manual_seed(0)  # else the loader draws its base seed from the global generator, and with it from the run's
    loader = DataLoader(
        rows,
        batch_sampler=plan,
        collate_fn=_Collate(collate),
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=own,
    )
    return Batches(loader, rows.broken)


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

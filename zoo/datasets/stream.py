"""Rows of sources that can only be read from their beginning: shards behind a URL, a pipe, a compressed file.

A source is a number of stretches (shards). Rows still have an index, so that a run is resumed from its step like any other: `Forward` reads
a stretch forward to the row that is asked for, and keeps a window of what it has passed. That is quick as long as rows are asked for window
by window and from few stretches at a time, which is the order in which `zoo.train` takes them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .data import Row

LANES = 4
"""Stretches that a process reads at a time, each one for other batches."""
WINDOW = 256
"""Rows that are kept of each, encoded: as far as neighbours in a stretch are shuffled."""


class _Place:
    """How far one stretch is read, and the rows of the window in which that is."""

    def __init__(self, rows: Iterator[Any]):
        self.rows, self.next, self.first, self.held = rows, 0, 0, dict[int, Any]()

    def is_behind(self, offset: int) -> bool:
        return offset < self.next and offset not in self.held

    def read_to(self, offset: int) -> bool:
        """Whether there is such a row; it is held then."""
        first = offset // WINDOW * WINDOW
        if first != self.first:
            self.first, self.held = first, {}
        while self.next <= offset:
            row = next(self.rows, None)
            if row is None:
                return False
            if self.next >= first:
                self.held[self.next] = row
            self.next += 1
        return True

    def close(self) -> None:
        close = getattr(self.rows, "close", None)  # a generator has one, and closes its file with it
        if close is not None:
            close()


@dataclass(eq=False)
class Forward:
    """index -> row, over stretches that are read forward; each process reads for itself.

    Args:
        names: of the stretches, for messages.
        sizes: how many rows each has.
        start: number of a stretch -> its rows, encoded, from the first on.
        decode: an encoded row -> a row.
        counted: the sizes are what was found; else they are a guess, and where a stretch has fewer rows it begins again.

    Raises:
        ValueError: a counted stretch has fewer rows than it had.
    """

    names: Sequence[str]
    sizes: Sequence[int]
    start: Callable[[int], Iterator[Any]]
    decode: Callable[[Any], Row]
    counted: bool = True

    def __post_init__(self) -> None:
        self._ends = np.cumsum(self.sizes)
        self._process, self._places = 0, dict[int, _Place]()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_process": 0, "_places": {}}  # an open file does not travel

    def __call__(self, index: int) -> Row:
        return self.decode(self.raw(index))

    def raw(self, index: int) -> Any:
        """The row as it stands in its source."""
        stretch = int(np.searchsorted(self._ends, index, side="right"))
        offset = index - (int(self._ends[stretch - 1]) if stretch else 0)
        place = self._place(stretch, offset)
        if not place.read_to(offset):
            there = place.next
            if self.counted or not there:
                raise ValueError(f"{self.names[stretch]}: has {there:,} rows now, {self.sizes[stretch]:,} were expected")
            offset %= there
            place = self._place(stretch, offset)
            place.read_to(offset)
        return place.held[offset]

    def _place(self, stretch: int, offset: int) -> _Place:
        if self._process != os.getpid():  # a fork shares how far a file is read with its parent
            self._process, self._places = os.getpid(), {}
        place = self._places.pop(stretch, None)
        if place is None or place.is_behind(offset):
            if place is not None:
                place.close()
            place = _Place(self.start(stretch))
        self._places[stretch] = place  # the last one asked for is the last to go
        while len(self._places) > LANES:
            self._places.pop(next(iter(self._places))).close()
        return place


def shuffled(size: int, chance: np.random.Generator) -> np.ndarray:
    """`[size]` int64: the numbers of a stretch's rows, shuffled within each window."""
    windows = [np.arange(first, min(first + WINDOW, size)) for first in range(0, size, WINDOW)]
    return np.concatenate([chance.permutation(window) for window in windows]) if windows else np.empty(0, dtype=np.int64)

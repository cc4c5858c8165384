"""Which class is taken for which: the whole matrix where a page has room for it, and the most confused pairs, which there always is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

MOST = 24  # classes whose matrix can be read
PAIRS = 12


@dataclass(frozen=True)
class Cell:
    """How many, and which share of the rows of the true class."""

    count: int
    share: float


@dataclass(frozen=True)
class Pair:
    """Rows of `true` that were taken for `predicted`: how many of how many."""

    true: str
    predicted: str
    count: int
    rows: int


@dataclass(frozen=True)
class Confusion:
    """`matrix` has a row a true class and a column a predicted one; empty where there are more than MOST classes."""

    classes: tuple[str, ...]
    matrix: tuple[tuple[Cell, ...], ...]
    pairs: tuple[Pair, ...]
    wrong: int
    rows: int


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Confusion:
    """From `[C, C]` counts, a row a true class, as `ClassificationMeter` has them."""
    table = torch.as_tensor(counts)
    rows = table.sum(1)
    off = table.clone().fill_diagonal_(0)
    found = off.flatten().topk(min(PAIRS, off.numel()))
    pairs = [
        Pair(classes[place // len(classes)], classes[place % len(classes)], int(count), int(rows[place // len(classes)]))
        for count, place in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        if count
    ]

    def cells(row: Sequence[int], total: int) -> tuple[Cell, ...]:
        return tuple(Cell(count, count / total if total else 0.0) for count in row)

    matrix: Any = tuple(map(cells, table.tolist(), rows.tolist())) if len(classes) <= MOST else ()
    return Confusion(tuple(classes), matrix, tuple(pairs), int(off.sum()), int(table.sum()))

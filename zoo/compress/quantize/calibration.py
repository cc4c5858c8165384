"""Rows for calibration: the run's training rows, prepared as for evaluation, in an order that depends on their number alone."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...datasets import Split
from ...datasets.picture import BrokenPicture
from ...progress import tracked

ROWS = 256
_BATCH = 16
_HELD_OUT = 1 / 4  # of the rows measure the error of a layer, and set no range
_LEAST = 2


def calibration(
    split: Split,
    prepare: Callable[[Sequence[Any]], Tensor],
    column: str = "image",
    *,
    rows: int = ROWS,
    broken: str = "raise",
) -> tuple[list[Tensor], list[Tensor]]:
    """Batches to take ranges from, and batches to measure on.

    Args:
        split: the training rows.
        prepare: values of the column to a batch, as for evaluation.
        column: which values.
        rows: how many in all; fewer where there are fewer.
        broken: "raise", or else pictures that cannot be read are left out.

    Raises:
        ValueError: there are not two rows that can be used.
        BrokenPicture: a picture cannot be read, and `broken` is "raise".
    """
    if rows < _LEAST:
        raise ValueError(f"calibration_rows: expected at least {_LEAST}, one to take ranges from and one to measure on, got {rows}")
    prepared: list[Tensor] = []
    order = np.random.default_rng(0).permutation(len(split))
    for index in tracked(order[:rows].tolist(), min(rows, len(split)), "read calibration rows"):
        try:
            row = split[index]
            if column in row:
                prepared.append(prepare([row[column]])[0])
        except BrokenPicture:
            if broken == "raise":
                raise
    if len(prepared) < _LEAST:
        raise ValueError(f"calibration: expected at least {_LEAST} training rows with {column}, got {len(prepared)}")
    kept = max(1, round(len(prepared) * _HELD_OUT))
    return _batches(prepared[kept:]), _batches(prepared[:kept])


def _batches(rows: Sequence[Tensor]) -> list[Tensor]:
    return [torch.stack(tuple(rows[first : first + _BATCH])) for first in range(0, len(rows), _BATCH)]

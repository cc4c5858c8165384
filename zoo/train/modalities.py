"""Rows to a batch of modalities, any of which a row may lack: what a joint embedding reads, in the processes that read the data."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..datasets.data import Row
from ..datasets.picture import read_picture
from .loader import Batch

Prepare = Callable[[list[Any]], torch.Tensor]


def raw_value(row: Row, name: str, columns: Sequence[str] = ()) -> Any | None:
    """The value of a modality in a row, that of a table the dict of its columns; None where there is none."""
    return row[name] if name in row else {column: row[column] for column in columns if column in row} or None


class PrepareRow:
    """Keeps what the towers read: pictures as tensors, the columns of a table as one dict, the rest as it is."""

    def __init__(self, modalities: Sequence[str], tables: Mapping[str, Sequence[str]], transforms: Mapping[str, Callable]):
        self.modalities, self.tables, self.transforms = tuple(modalities), dict(tables), dict(transforms)

    def __call__(self, row: Row) -> Row:
        values = {name: raw_value(row, name, self.tables.get(name, ())) for name in self.modalities}
        kept = {name: value for name, value in values.items() if value is not None}
        for name, transform in self.transforms.items():
            if name in kept:
                picture = kept[name]
                kept[name] = transform(read_picture(picture) if isinstance(picture, str | Path) else picture)
        return kept


class Collate:
    """Rows to a batch: each modality's values that are there, stacked, and under `rows` which rows they belong to.

    Args:
        fillers: modality -> a value that stands in where no row has one, and that belongs to no row.
    """

    def __init__(self, prepare: Mapping[str, Prepare], fillers: Mapping[str, Any] | None = None):
        self.prepare, self.fillers = dict(prepare), dict(fillers or {})

    def __call__(self, rows: Sequence[Row]) -> Batch:
        batch: Batch = {key: torch.tensor([row[key] for row in rows]) for key in ("id", "index")}
        for name, prepare in self.prepare.items():
            there = [number for number, row in enumerate(rows) if name in row]
            if there or name in self.fillers:
                batch[name] = prepare([rows[number][name] for number in there] or [self.fillers[name]])
                batch[f"rows.{name}"] = torch.tensor(there, dtype=torch.int64)
        return batch

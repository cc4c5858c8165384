"""Data looked over before they are trained on: every row is read once, and what is wrong or worth knowing is counted.

Two pictures are the same where their decoded pixels are, whatever their files are called and however they were written. A picture that is
in both splits is a leak: what is measured on it was learned by heart. Memory is that of one row, and a few numbers for every picture.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..progress import tracked
from .data import Data, Split
from .picture import BrokenPicture

_AT_ONCE = 16  # rows that a worker hands over together


@dataclass(frozen=True)
class _Seen:
    """A picture, as far as it is compared and counted."""

    digest: bytes
    size: tuple[int, int]
    moments: np.ndarray  # [2, 3] float64: means of the values in [0, 1] and of their squares, by channel

    @classmethod
    def of(cls, picture: Image.Image) -> "_Seen":
        rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
        digest = blake2b(rgb.tobytes(), digest_size=16, key=b"%dx%d" % rgb.size).digest()
        share = np.array(rgb.histogram(), dtype=np.float64).reshape(3, 256) / (rgb.width * rgb.height)
        values = np.arange(256) / 255
        return cls(digest, rgb.size, np.stack([share @ values, share @ values**2]))


@dataclass(frozen=True)
class _Looked:
    """What is kept of a row."""

    row: int
    columns: tuple[str, ...]
    labels: tuple[int, ...]
    picture: _Seen | None = None
    broken: tuple[str, str] | None = None  # path, why


class _Rows(Dataset):
    """Every row, its picture opened unless an earlier row has the very same one and the reader can tell the rest without it."""

    def __init__(self, split: Split):
        self.split = split
        self.first = np.zeros(len(split), dtype=bool)
        self.first[np.unique(split.pictures, return_index=True)[1]] = True

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> _Looked:
        split = self.split
        opens = split.cells is None or bool(self.first[index])
        try:
            row = split[index] if opens else split.cells(index)  # type: ignore[misc]  # asked for just before
        except BrokenPicture as error:
            row = split.cells(index) if split.cells is not None else dict.fromkeys(split.columns)  # nobody knows what else it lacks
            return _Looked(index, (*row, "image"), _labels(row.get("label")), broken=(error.path, error.why))
        columns = tuple(row) if opens else (*row, "image")
        seen = _Seen.of(row["image"]) if isinstance(row.get("image"), Image.Image) and self.first[index] else None
        return _Looked(index, columns, _labels(row.get("label")), seen)


def _labels(value: Any) -> tuple[int, ...]:
    return () if value is None else tuple(int(each) for each in np.atleast_1d(value))


def _look(split: Split, which: str, workers: int) -> Iterator[_Looked]:
    loader = DataLoader(_Rows(split), batch_size=_AT_ONCE, collate_fn=list, num_workers=workers)
    return (looked for part in tracked(loader, math.ceil(len(split) / _AT_ONCE), f"read {which}") for looked in part)


def check_data(data: Data, *, workers: int = 0) -> dict[str, Any]:
    """Read every row of both splits once.

    Args:
        data: what to look over, opened with `broken=True` so that what is missing is counted too.
        workers: processes that read.

    Returns:
        As JSON: `data`; by split `rows`, `pictures` (different files, or rows where there are none), `missing` (column to rows without it),
        `width`, `height`, `aspect` (width by height) and `captions` (of a picture), each as `[min, median, max]`, and `classes`, rows by
        name; lists of what is `broken` (split, row, path, why), `leaks` (eval, train), `duplicates` within a split (split, path, first) and
        `label_noise` (paths of one picture under two labels); `mean` and `std` by channel of the training pictures in [0, 1], each counting
        alike, as the loop resizes all of them to one size; and `fine`: nothing is broken and nothing leaks.

    Raises:
        OSError: a file could not be read for a reason that says nothing about the picture.
    """
    found: dict[str, Any] = {"data": data.name, "splits": {}, "mean": None, "std": None}
    found |= {"broken": [], "leaks": [], "duplicates": [], "label_noise": []}
    known: dict[bytes, tuple[str, int, tuple[int, ...]]] = {}  # of a picture's first row
    splits = {"train": data.train, "eval": data.eval}

    def name(which: str, row: int) -> str:
        paths = splits[which].paths
        return (paths(row) if paths is not None else "") or f"{which} row {row}"

    def classes(labels: tuple[int, ...]) -> list[str]:
        return [data.classes[label] if data.classes and label < len(data.classes) else str(label) for label in labels]

    for which, split in splits.items():
        columns: Counter[str] = Counter()
        balance: Counter[int] = Counter()
        captions: Counter[int] = Counter()
        sizes: list[tuple[int, int]] = []
        moments = np.zeros((2, 3))
        here: dict[bytes, int] = {}
        for looked in _look(split, which, workers):
            columns.update(looked.columns)
            balance.update(looked.labels)
            if {"image", "text"} <= set(looked.columns):
                captions[int(split.pictures[looked.row])] += 1
            if looked.broken is not None:
                path, why = looked.broken
                found["broken"].append({"split": which, "row": looked.row, "path": path, "why": why})
            if looked.picture is None:
                continue
            seen, mine = looked.picture, name(which, looked.row)
            sizes.append(seen.size)
            moments += seen.moments
            if (earlier := here.setdefault(seen.digest, looked.row)) != looked.row:
                found["duplicates"].append({"split": which, "path": mine, "first": name(which, earlier)})
            first_in, first, labels = known.setdefault(seen.digest, (which, looked.row, looked.labels))
            if first_in != which:
                found["leaks"].append({"eval": mine, "train": name(first_in, first)})
            if labels != looked.labels and labels and looked.labels:
                pair = {"path": mine, "labels": classes(looked.labels), "other": name(first_in, first), "other_labels": classes(labels)}
                found["label_noise"].append(pair)
        widths, heights = np.array(sizes or np.empty((0, 2))).T
        found["splits"][which] = {
            "rows": len(split),
            "pictures": len(sizes),
            "missing": {column: len(split) - columns[column] for column in data.columns if columns[column] < len(split)},
            "width": _spread(widths),
            "height": _spread(heights),
            "aspect": _spread(widths / heights),
            "captions": _spread(list(captions.values())),
            "classes": {label: balance[number] for number, label in enumerate(data.classes or ())},
        }
        if which == "train" and sizes:
            mean, square = moments / len(sizes)
            found["mean"], found["std"] = mean.round(4).tolist(), np.sqrt(square - mean**2).round(4).tolist()
    return {**found, "fine": not found["broken"] and not found["leaks"]}


def _spread(values: Any) -> list[float] | None:
    """[min, median, max]; None of nothing."""
    return [round(float(each), 3) for each in (np.min(values), np.median(values), np.max(values))] if len(values) else None

"""What a data string becomes: rows for training and rows for evaluation, and what is known about them.

A row is a plain dict. Its keys are modalities and targets: `image` (PIL.Image), `text` (str), `label` (int), or `labels` (a tuple of int,
for none, one or more of the classes), and whatever else the data have, as it stands there (a number, a text, the path of a file). A missing
value is a missing key. Rows are read when asked for, by index, in any process.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Split(Sequence[Row]):
    """Rows, read one by one.

    Args:
        size: how many rows there are.
        read: index in [0, size) to row.
        columns: the keys that rows have.
        ids: `[size]` int64, equal where rows show the same thing (positives of each other); by default every row is its own.
        pictures: `[size]` int64, equal where rows hold the very same picture (several captions of one picture); by default all differ.
        cells: index to the row without its picture, for readers that can tell it without opening the picture.
        paths: index to the path of the row's picture ("" where it has none), for readers of files.
        where: index to where the row stands, such as "my.csv, line 3", for messages.
        stretches: how many rows each of the sources has that can only be read from its beginning; None where every row is at hand.
    """

    size: int
    read: Callable[[int], Row] = field(repr=False)
    columns: tuple[str, ...] = ()
    ids: np.ndarray = field(default=None, repr=False)  # type: ignore[arg-type]  # filled in below
    pictures: np.ndarray = field(default=None, repr=False)  # type: ignore[arg-type]  # filled in below
    cells: Callable[[int], Row] | None = field(default=None, repr=False)
    paths: Callable[[int], str] | None = field(default=None, repr=False)
    where: Callable[[int], str] | None = field(default=None, repr=False)
    stretches: tuple[int, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("ids", "pictures"):
            given = getattr(self, name)
            values = np.arange(self.size) if given is None else np.asarray(given, dtype=np.int64)
            if values.shape != (self.size,):
                raise ValueError(f"{name}: expected {self.size} integers, one a row, got shape {values.shape}")
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # rows are asked for one by one
        if not -self.size <= index < self.size:
            raise IndexError(f"row {index} of {self.size}")
        return self.read(int(index) % self.size)

    def place(self, index: int) -> str:
        """What messages call a row: file and line, or its picture's path, or its number."""
        return (self.where(index) if self.where else self.paths(index) if self.paths else "") or f"row {index}"

    def take(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """The rows at these indices, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)

        def of(each: Callable[[int], Any] | None) -> Callable[[int], Any] | None:
            return None if each is None else partial(_chosen, each, chosen)

        read = partial(_chosen, self.read, chosen)
        same = self.ids[chosen], self.pictures[chosen]
        return Split(len(chosen), read, self.columns, *same, of(self.cells), of(self.paths), of(self.where))

    def without_pictures(self) -> Iterator[Row]:
        """Every row, in order; where the reader can tell rows without opening their pictures, without `image`."""
        return map(self.cells or self.read, range(self.size))

    def values(self, column: str) -> Iterator[Any]:
        """What stands in a column, in order, rows that lack it left out; pictures are opened only for the column `image`."""
        rows = self if column == "image" else self.without_pictures()
        return (row[column] for row in rows if column in row)

    def texts(self) -> Iterator[str]:
        """The `text` of every row, in order, "" where there is none."""
        return (row.get("text", "") for row in self.without_pictures())


def _chosen(read: Callable[[int], Any], chosen: np.ndarray, index: int) -> Any:  # by name, so that a Split can be pickled
    return read(int(chosen[index]))


def as_split(rows: Sequence[Row]) -> Split:
    """A Split, or any sequence of rows as one; its columns are those of all rows of a list, of another sequence those of the first row."""
    if isinstance(rows, Split):
        return rows
    looked_at = rows if isinstance(rows, list | tuple) or not len(rows) else [rows[0]]
    return Split(len(rows), rows.__getitem__, tuple(dict.fromkeys(key for row in looked_at for key in row)))


@dataclass(frozen=True, eq=False)
class Data:
    """A train and an eval split, and what a recipe should know.

    Args:
        name: the data string that opened it, so that a run can open it again.
        train, eval: rows, as a Split or any sequence of dicts.
        classes: names of the labels 0, 1, ...; None where rows have no label.
        img_size: the size to train at when nobody says otherwise; None leaves it to the model.
        augment: the augmentation that suits these pictures ("shift" where a mirrored picture is another thing, "crop" for photos).
        about: a short sentence on what the rows are.
    """

    name: str
    train: Split
    eval: Split
    classes: tuple[str, ...] | None = None
    img_size: int | None = None
    augment: str = "crop"
    about: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", as_split(self.train))
        object.__setattr__(self, "eval", as_split(self.eval))

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels, or none."""
        return "labels" in self.columns

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.train.columns, *self.eval.columns)))

"""A table's row: numbers and categories to one feature, by a residual MLP.

    x_0 = b + Σ_numeric (w_j z_j + m_j [j is missing]) + Σ_categorical E_c[value]
    x_(k+1) = x_k + W2 relu(W1 norm(x_k));   feature = norm(x_depth)

z is the number, standardised with the mean and the deviation of the training split, 0 where it is missing. Each column's values have
embeddings of the full width, which is a linear layer on the one-hot code; index 0 is for what is missing or was not seen in training.
The blocks are the "ResNet" of Gorishniy et al., which on tables stands up to far larger networks, with layer norm in place of batch norm:
rows of a batch must not know of each other where a loss compares them.

Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021, arXiv 2106.11959.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from registry import TOWERS, nearest

TableRow = Mapping[str, Any]  # column to number or text; a missing value is a missing key
_FAR = 10.0  # deviations; what is further away is a mistake or an outlier, and either would drown the other columns


def _number(value: Any) -> float | None:
    """The number that a cell says, NaN for one that says it is none; None where it is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isinf(number) else number


class Columns:
    """Rows of a table to float32 `[B, numeric + categorical]`: standardised numbers, NaN where missing, then codes of categories.

    Args:
        numeric: column to mean and standard deviation.
        categorical: column to its values, whose codes are 1, 2, ...; 0 is for any other, and for none.

    Raises:
        ValueError: there is no column, or a column is of both kinds.
    """

    def __init__(self, numeric: Mapping[str, Sequence[float]], categorical: Mapping[str, Sequence[str]]):
        if both := sorted(numeric.keys() & categorical.keys()):
            raise ValueError(f"column {both[0]!r} is given as numeric and as categorical")
        if not numeric and not categorical:
            raise ValueError("no columns: a table needs at least one that is numeric or categorical")
        self.numeric = {name: (float(numeric[name][0]), float(numeric[name][1])) for name in sorted(numeric)}  # JSON may reorder keys
        self.codes = {name: {value: code for code, value in enumerate(categorical[name], 1)} for name in sorted(categorical)}

    def __call__(self, rows: Sequence[TableRow]) -> Tensor:
        """Raises ValueError where a cell of a numeric column is no number, with column, cell and row."""
        out = np.zeros(
            (len(rows), len(self.numeric) + len(self.codes))
        )  # float64: a year or a time stamp is far from 0, and its deviation small
        for index, row in enumerate(rows):
            for place, (name, (mean, std)) in enumerate(self.numeric.items()):
                number = _number(row.get(name, math.nan))
                if number is None:
                    raise _no_number(name, row[name], index)
                out[index, place] = (number - mean) / std
            for place, (name, codes) in enumerate(self.codes.items(), len(self.numeric)):
                out[index, place] = codes.get(str(row.get(name)), 0) if name in row else 0
        out[:, : len(self.numeric)].clip(-_FAR, _FAR, out=out[:, : len(self.numeric)])
        return torch.from_numpy(out.astype(np.float32))


def _no_number(name: str, cell: Any, index: int) -> ValueError:
    return ValueError(f"column {name!r} is numeric, and row {index} has {cell!r}; expected a number, or an empty cell where it is missing")


class Block(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(self.norm(x))))))


@TOWERS.register("mlp")
class MLP(nn.Module):
    """What `prepare` makes of rows, `[B, columns]` -> features `[B, width]`. `MLP.fit(rows)` finds columns and statistics by looking.

    Args:
        numeric: column to the mean and standard deviation of its numbers in training.
        categorical: column to the values that have an embedding.
        width: of the feature, and of every layer.
        depth: residual blocks.
        dropout: in the blocks.

    Raises:
        ValueError: there is no column, or a column is of both kinds; in `prepare`, a numeric cell that is no number.
    """

    reads = "table"
    starts: Tensor

    def __init__(
        self,
        *,
        numeric: Mapping[str, Sequence[float]],
        categorical: Mapping[str, Sequence[str]],
        width: int = 128,
        depth: int = 2,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.prepare = Columns(numeric, categorical)
        self.config: dict[str, Any] = dict(
            numeric={name: list(pair) for name, pair in self.prepare.numeric.items()},
            categorical={name: list(codes) for name, codes in self.prepare.codes.items()},
            width=width,
            depth=depth,
            dropout=dropout,
        )
        self.num_features = width
        sizes = [1 + len(codes) for codes in self.prepare.codes.values()]
        starts = torch.tensor([sum(sizes[:index]) for index in range(len(sizes))], dtype=torch.int64)
        self.register_buffer("starts", starts, persistent=False)  # of each column's embeddings, all of which are one table
        self.weight = nn.Parameter(torch.empty(len(numeric), width))
        self.missing = nn.Parameter(torch.empty(len(numeric), width))
        self.bias = nn.Parameter(torch.empty(width))
        self.values = nn.Embedding(sum(sizes), width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.init_weights()

    def init_weights(self) -> None:
        """All columns weigh the same and make features of variance one; blocks add little, so that a deep tower starts as a shallow one."""
        for parameter in (self.weight, self.missing, self.values.weight):
            nn.init.normal_(parameter, std=(len(self.weight) + len(self.starts)) ** -0.5)
        nn.init.zeros_(self.bias)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith("fc2.weight"):
                nn.init.normal_(parameter, std=0.02 / (2 * len(self.blocks)) ** 0.5)
            elif name.endswith("fc2.bias"):
                nn.init.zeros_(parameter)

    @classmethod
    def fit(
        cls,
        values: Iterable[TableRow],
        *,
        columns: str | Sequence[str] | None = None,
        numeric: str | Sequence[str] | None = None,
        categorical: str | Sequence[str] | None = None,
        least: int = 2,
        **options: Any,
    ) -> "MLP":
        """A tower for these rows. A column whose cells are all numbers is numeric, else it is categorical.

        What says nothing is left out, unless it is named: a column of one value, words that do not repeat (a name, a path), lists.

        Args:
            values: rows of the training split, and of no other.
            columns: those to use; by default all. Here and below a list, or one text as "age+bmi".
            numeric, categorical: columns that are so, whatever they look like.
            least: a category that is seen less often has no embedding of its own: it is one of the unseen.
            options: width, depth, dropout.

        Raises:
            ValueError: an unknown column, a numeric cell that is no number, a column that is half numbers and half words, nothing to use.
        """
        rows = list(values)
        if wrong := [row for row in rows if not isinstance(row, Mapping)]:
            raise ValueError(f"mlp reads a table, column to cell, and here is {wrong[0]!r}; one column is read by table=mlp:columns=NAME")
        named = {kind: _named(names) for kind, names in (("columns", columns), ("numeric", numeric), ("categorical", categorical))}
        seen = list(dict.fromkeys(name for row in rows for name in row))
        for kind, names in named.items():
            for name in names:
                if name not in seen:
                    raise ValueError(f"{kind}: no training row has a column {name!r}; {nearest(name, seen)}")
        if both := [name for name in named["numeric"] if name in named["categorical"]]:
            raise ValueError(f"column {both[0]!r} is given as numeric and as categorical")
        asked = {*named["numeric"], *named["categorical"]}
        statistics: dict[str, list[float]] = {}
        kept: dict[str, list[str]] = {}
        for name in dict.fromkeys([*(named["columns"] or seen), *named["numeric"], *named["categorical"]]):
            cells = [(index, row[name]) for index, row in enumerate(rows) if name in row]
            if any(isinstance(cell, list | tuple | np.ndarray) for _, cell in cells):
                if name in asked or name in named["columns"]:
                    raise ValueError(f"column {name!r} holds lists; a table is of numbers and texts, the tower `vector` reads lists")
            elif name in named["numeric"] or (name not in named["categorical"] and _looks_numeric(name, cells)):
                numbers = _numbers(name, cells)
                varies = len(numbers) > 0 and numbers.min() < numbers.max()
                if name in asked or varies or 0 < len(numbers) < len(rows):
                    statistics[name] = [float(numbers.mean()) if len(numbers) else 0.0, float(numbers.std()) if varies else 1.0]
            else:
                counts = Counter(str(cell) for _, cell in cells)
                known = sorted(value for value, count in counts.items() if count >= least)
                if name in asked or (known and (len(counts) > 1 or len(cells) < len(rows))):
                    kept[name] = known
        if not statistics and not kept:
            raise ValueError(
                f"no column to learn from: {len(rows)} rows with {', '.join(seen) or 'nothing'}; expected one that varies and repeats"
            )
        return cls(numeric=statistics, categorical=kept, **options)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are read; of other columns a row may hold what it likes."""
        return (*self.prepare.numeric, *self.prepare.codes)

    def no_weight_decay(self) -> set[str]:
        return {"missing", "values.weight"}

    def forward(self, x: Tensor) -> Tensor:
        numbers, codes = x[:, : len(self.weight)], x[:, len(self.weight) :].long()
        missing = numbers.isnan()
        z = numbers.masked_fill(missing, 0).to(self.weight.dtype)
        x = self.bias + z @ self.weight + missing.to(z.dtype) @ self.missing + self.values(codes + self.starts).sum(1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def _named(names: str | Sequence[str] | None) -> list[str]:
    return [] if names is None else [name.strip() for name in (names.split("+") if isinstance(names, str) else names)]


def _looks_numeric(name: str, cells: Sequence[tuple[int, Any]]) -> bool:
    words = [(index, cell) for index, cell in cells if _number(cell) is None]
    if words and 2 * len(words) < len(cells):  # a house number such as 12a, or a stray "unknown": only the user can tell
        index, cell = words[0]
        raise ValueError(
            f"column {name!r}: {len(cells) - len(words)} of {len(cells)} cells are numbers, and row {index} has {cell!r}; "
            f"empty the cells that are missing values, or say categorical={name}"
        )
    return not words


def _numbers(name: str, cells: Sequence[tuple[int, Any]]) -> np.ndarray:
    numbers = []
    for index, cell in cells:
        number = _number(cell)
        if number is None:
            raise _no_number(name, cell, index)
        if not math.isnan(number):
            numbers.append(number)
    return np.array(numbers, dtype=np.float64)

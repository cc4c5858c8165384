"""A vector that somebody else computed: an embedding of another model, a spectrum, a fingerprint.

    feature = dropout(z),   or with a width   W dropout(z) + b;      z = (x - mean) / deviation, of the training split, number by number

By default the vector is the feature, and the head above it does all that is to be learned: with few pairs that is what generalises, as in
linear probes. Embeddings of trained models have means far from zero and deviations that differ, hence the standardisation.

Alain and Bengio, "Understanding intermediate layers using linear classifier probes", arXiv 1610.01644.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from registry import TOWERS

Numbers = Sequence[float] | np.ndarray | str  # numbers, "[0.5, 1]", or the path of a .npy file
_MOST = 10_000  # vectors that statistics are learned from


def _read(value: Numbers, place: str) -> np.ndarray:
    """`[D]` float64.

    Raises:
        ValueError: not numbers along one axis, or one of them not finite; the message starts with the path or the place.
    """
    where, given = place, value
    try:
        if isinstance(value, str) and value.startswith("["):
            given = json.loads(value)
        elif not isinstance(value, list | tuple | np.ndarray):
            where = str(value)
            given = np.load(where, allow_pickle=False)
        numbers = np.asarray(given, dtype=np.float64)
    except (OSError, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}; expected a list of numbers, or a .npy file of them") from error
    if numbers.ndim != 1 or not numbers.size:
        raise ValueError(f"{where}: an array of shape {list(numbers.shape)}; expected numbers along one axis")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{where}: number {np.flatnonzero(~np.isfinite(numbers))[0]} of {numbers.size} is not finite")
    return numbers


class Standardise:
    """Vectors to float32 `[B, D]`.

    Args:
        in_features: D.
        mean, std: D numbers each; None leaves vectors as they are.
    """

    def __init__(self, in_features: int, mean: Sequence[float] | None, std: Sequence[float] | None):
        for name, given in (("mean", mean), ("std", std)):
            if (mean is None) != (std is None) or (given is not None and len(given) != in_features):
                raise ValueError(f"{name}: expected {in_features} numbers, or neither mean nor std")
        self.in_features = in_features
        self.mean, self.std = (np.array(each if each is not None else same, dtype=np.float64) for each, same in ((mean, 0), (std, 1)))

    def __call__(self, values: Sequence[Numbers]) -> Tensor:
        """Raises ValueError for a vector that is none, or has another width."""
        x = np.stack([self._one(value, f"vector {index}") for index, value in enumerate(values)])
        return torch.from_numpy(((x - self.mean) / self.std).astype(np.float32))

    def _one(self, value: Numbers, place: str) -> np.ndarray:
        numbers = _read(value, place)
        if len(numbers) != self.in_features:
            raise ValueError(f"{value if isinstance(value, str) else place}: {len(numbers)} numbers, expected {self.in_features}")
        return numbers


@TOWERS.register("vector")
class Vector(nn.Module):
    """What `prepare` makes of vectors, `[B, in_features]` -> features `[B, width]`. `Vector.fit(vectors)` learns the statistics.

    Args:
        in_features: numbers in a vector.
        mean, std: of each number in training; None leaves vectors as they are.
        width: of the feature; by default the vector itself is the feature.
        dropout: of the vector's numbers.

    Raises:
        ValueError: statistics of another width; in `prepare`, a vector that is none, or has another width.
    """

    reads = "vector"

    def __init__(
        self,
        *,
        in_features: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        width: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.prepare = Standardise(in_features, mean, std)
        self.config: dict[str, Any] = dict(in_features=in_features, mean=mean, std=std, width=width, dropout=dropout)
        self.num_features = width or in_features
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_features, width) if width else nn.Identity()

    @classmethod
    def fit(cls, values: Iterable[Numbers], *, standardise: bool = True, **options: Any) -> "Vector":
        """A tower for these vectors: the first one gives the width, and at most 10,000, evenly spaced, the mean and the deviation.

        Args:
            values: vectors of the training split, and of no other.
            standardise: or leave the numbers as they are.
            options: width, dropout.

        Raises:
            ValueError: there are no vectors, one is none, or two differ in width.
        """
        vectors = list(values)
        if not vectors:
            raise ValueError("no vectors to learn the width from: the training split has none")
        read = Standardise(len(_read(vectors[0], "vector 0")), None, None)
        if not standardise:
            return cls(in_features=read.in_features, **options)
        chosen = np.unique(np.linspace(0, len(vectors) - 1, _MOST).round().astype(int))
        shift, total, squares = read._one(vectors[0], "vector 0"), 0.0, 0.0  # the sums stay near zero, whatever the mean
        for index in chosen:
            x = read._one(vectors[index], f"vector {index}") - shift
            total, squares = total + x, squares + x * x
        mean = total / len(chosen)
        std = np.sqrt(np.maximum(squares / len(chosen) - mean * mean, 0))
        std[std <= 1e-6 * np.abs(shift + mean)] = 1.0  # a number that is always the same, up to rounding
        plain = [[float(f"{number:.7g}") for number in each] for each in (shift + mean, std)]
        return cls(in_features=read.in_features, mean=plain[0], std=plain[1], **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(x))

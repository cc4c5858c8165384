"""Hinges over a row's negatives, both ways: what `triplet` and `vsepp` are made of.

h_ij = max(0, m + x_i·y_j - x_i·y_i) over j with id_j ≠ id_i,   l(x, y) = 1/B Σ_i [ w max_j h_ij + (1-w) mean_j h_ij ]
L = l(a, b) + l(b, a)
"""

import torch
from torch import Tensor

from ..layers.precision import at_least_float32
from . import rows


def hinges(a: Tensor, b: Tensor, ids: Tensor | None, margin: float, hardest: float) -> Tensor:
    """The loss of `[B, D]` and `[B, D]`; above 4,096 rows a few rows of the matrix at a time. `margin` is m, `hardest` is w."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = at_least_float32(a), at_least_float32(b)
        names = torch.arange(len(a), device=a.device) if ids is None else ids
        partner = (a * b).sum(1)

        def one_way(x: Tensor, y: Tensor, chunk: slice) -> Tensor:
            same = names[chunk, None] == names[None, :]
            hinge = (x[chunk] @ y.T + (margin - partner[chunk, None])).relu().masked_fill(same, 0)
            mean = hinge.sum(1) / (len(y) - same.sum(1)).clamp(min=1)
            return (hardest * hinge.amax(1) + (1 - hardest) * mean).sum()

        return (rows.summed(len(a), one_way, a, b) + rows.summed(len(a), one_way, b, a)) / len(a)

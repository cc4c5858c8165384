"""Decoupled contrastive learning: InfoNCE whose denominator holds the negatives only.

    L = 1/2 [ l(a, b) + l(b, a) ],   l(x, y) = 1/B Σ_i ( log Σ_{j: id_j ≠ id_i} exp(x_i·y_j / τ)  -  mean_{j: id_j = id_i} x_i·y_j / τ )

InfoNCE multiplies a row's gradient by 1 - p, p the softmax at its partner: an easy row says little, and in a small batch most rows are
easy. Without the positive in the denominator that factor is gone, and small batches teach more.

The temperature is fixed, as in the paper. A learned one would run away: the loss has no lower bound, and once a row is nearer to its
partner than to the rest, each increase of 1/τ makes it smaller. The value may be negative. The paper also takes negatives from a row's own
side; across two modalities there are those of the other side, both ways.

Yeh et al., "Decoupled Contrastive Learning", arXiv 2110.06848.
"""

import math

import torch
from torch import Tensor

from registry import LOSSES

from ..layers.precision import at_least_float32
from . import rows


@LOSSES.register("dcl")
def dcl(
    a: Tensor,
    b: Tensor,
    *,
    logit_scale: Tensor | None = None,
    logit_bias: Tensor | None = None,
    ids: Tensor | None = None,
    temperature: float = 0.1,
) -> Tensor:
    """The loss of `[B, D]` and `[B, D]` embeddings of unit length; float32 at least, also under autocast.

    A row without negatives, as in a batch that is all one thing, counts as 0. Above 4,096 rows the matrix is taken a few rows at a time.

    Args:
        logit_scale: not used: the temperature is fixed.
        logit_bias: not used: a constant cancels.
        ids: `[B]` integers, equal where rows are the same thing and never each other's negatives; by default every row is its own.
        temperature: divides the cosines, the τ.

    Raises:
        ValueError: temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"dcl: temperature divides the cosines and is above 0, got {temperature!r}; 0.1 is the default")
    with torch.autocast(a.device.type, enabled=False):
        a, b = at_least_float32(a), at_least_float32(b)
        names = torch.arange(len(a), device=a.device) if ids is None else ids

        def one_way(x: Tensor, y: Tensor, chunk: slice) -> Tensor:
            logits = x[chunk] @ y.T / temperature
            same = names[chunk, None] == names[None, :]
            apart = logits.masked_fill(same, -math.inf).logsumexp(1)
            together = logits.masked_fill(~same, 0).sum(1) / same.sum(1)
            return torch.where(apart.isfinite(), apart - together, 0).sum()

        return (rows.summed(len(a), one_way, a, b) + rows.summed(len(a), one_way, b, a)) / (2 * len(a))


dcl.init_logit_scale = None  # type: ignore[attr-defined]  # part of the contract: registry.LOSSES
dcl.init_logit_bias = None  # type: ignore[attr-defined]

"""Barlow Twins across two modalities: the same component of both sides agrees over the batch, different ones have nothing in common.

    C = Aᵀ B / rows,   A, B: embeddings less their mean over the batch, by their deviation;   L = Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij²

There are no negatives: what is compared is components, over the batch, so ids say nothing. The embeddings come at unit length;
standardisation takes any one scale away again. They are multiplied by √D first, so that the guard against a division by zero is as small
beside them as the paper's is beside features of size 1. The value is a sum over components, near D at the start.

Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", arXiv 2103.03230.
"""

import torch
from torch import Tensor

from registry import LOSSES

from ..layers.precision import at_least_float32

EPS = 1e-5  # batch normalisation's, which the paper standardises with


def _standardised(x: Tensor) -> Tensor:
    x = at_least_float32(x) * x.shape[1] ** 0.5
    x = x - x.mean(0)
    return x * (x.square().mean(0) + EPS).rsqrt()


@LOSSES.register("barlow")
def barlow(
    a: Tensor,
    b: Tensor,
    *,
    logit_scale: Tensor | None = None,
    logit_bias: Tensor | None = None,
    ids: Tensor | None = None,
    redundancy: float = 5e-3,
) -> Tensor:
    """The loss of `[B, D]` and `[B, D]` embeddings of unit length; float32 at least, also under autocast.

    One row has no statistics: its loss is D, and its gradient 0.

    Args:
        logit_scale: not used.
        logit_bias: not used.
        ids: not used: there are no negatives.
        redundancy: weight of the correlations between different components, the λ.

    Raises:
        ValueError: redundancy is negative.
    """
    if not redundancy >= 0:
        raise ValueError(f"barlow: redundancy is a weight, 0 or more, got {redundancy!r}; the paper's is 0.005")
    with torch.autocast(a.device.type, enabled=False):
        correlation = _standardised(a).T @ _standardised(b) / len(a)
        same = correlation.diagonal()
        return (1 - same).square().sum() + redundancy * (correlation.square().sum() - same.square().sum())


barlow.init_logit_scale = None  # type: ignore[attr-defined]  # part of the contract: registry.LOSSES
barlow.init_logit_bias = None  # type: ignore[attr-defined]

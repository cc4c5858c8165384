"""VICReg: partners are equal (invariance), each component varies over the batch (variance), no two say the same (covariance).

    L = λ mean (a - b)² + μ [v(a) + v(b)] + ν [c(a) + c(b)]
    v(z) = 1/D Σ_j max(0, 1 - √(Var z_j + ε)),   c(z) = 1/D Σ_{i≠j} Cov(z)_ij²

There are no negatives, and ids say nothing. The paper's target for the deviation of a component is 1, for embeddings of any length. Ours
are of unit length: their D variances sum to 1 at most, so that a target of 1 could never be met. They are multiplied by √D first. Then the
variances sum to D at most, and all deviations are 1 where the mean is 0 and no component varies more than another: the target is the most
that all components can have at once. The invariance is a mean over components, as in the paper's algorithm 1; its equation 5 has the sum.

Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning", arXiv 2105.04906.
"""

import torch
from torch import Tensor

from registry import LOSSES

from ..layers.precision import at_least_float32

EPS = 1e-4  # the root's slope stays finite where a component is constant


def _spread(z: Tensor) -> tuple[Tensor, Tensor]:
    """v and c of `[B, D]`."""
    z = z - z.mean(0)
    covariance = z.T @ z / max(len(z) - 1, 1)
    variance = covariance.diagonal()
    return (1 - (variance + EPS).sqrt()).relu().mean(), (covariance.square().sum() - variance.square().sum()) / z.shape[1]


@LOSSES.register("vicreg")
def vicreg(
    a: Tensor,
    b: Tensor,
    *,
    logit_scale: Tensor | None = None,
    logit_bias: Tensor | None = None,
    ids: Tensor | None = None,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Tensor:
    """The loss of `[B, D]` and `[B, D]` embeddings of unit length; float32 at least, also under autocast.

    One row has no statistics: its variance and covariance are 0, and only the invariance has a gradient.

    Args:
        logit_scale: not used.
        logit_bias: not used.
        ids: not used: there are no negatives.
        invariance: weight of the distance between partners, the λ.
        variance: weight of what the components lack in deviation, the μ.
        covariance: weight of what different components have in common, the ν.

    Raises:
        ValueError: a weight is negative.
    """
    for name, weight in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
        if not weight >= 0:
            raise ValueError(f"vicreg: {name} is a weight, 0 or more, got {weight!r}; the paper's are 25, 25 and 1")
    with torch.autocast(a.device.type, enabled=False):
        a, b = (at_least_float32(each) * each.shape[1] ** 0.5 for each in (a, b))
        (va, ca), (vb, cb) = _spread(a), _spread(b)
        return invariance * (a - b).square().mean() + variance * (va + vb) + covariance * (ca + cb)


vicreg.init_logit_scale = None  # type: ignore[attr-defined]  # part of the contract: registry.LOSSES
vicreg.init_logit_bias = None  # type: ignore[attr-defined]

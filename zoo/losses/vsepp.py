"""VSE++, the max of hinges: a row's partner is nearer than the worst stranger in the batch, by a margin, both ways.

    h_ij = max(0, m + x_i·y_j - x_i·y_i) over j with id_j ≠ id_i
    l(x, y) = 1/B Σ_i [ w max_j h_ij + (1-w) mean_j h_ij ],   L = l(a, b) + l(b, a)

The paper sums over the rows, which ties the learning rate to the batch size; here it is a mean. The hardest negative alone (w = 1) can
pull all embeddings of an untrained network into one point, where the loss stays at 2m. So w rises from 0 to 1 over the first fifth of a
training. The paper's other loss, the sum of hinges, is their mean here: a sum is up to B - 1 times as large as the max and would outweigh
it until the very end of the warm-up, whereas the mean is of its size.

Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives", arXiv 1707.05612.
"""

from torch import Tensor

from registry import LOSSES

from .hinges import hinges

WARM_UP = 0.2  # of the training


@LOSSES.register("vsepp")
def vsepp(
    a: Tensor,
    b: Tensor,
    *,
    logit_scale: Tensor | None = None,
    logit_bias: Tensor | None = None,
    ids: Tensor | None = None,
    margin: float = 0.2,
    hardest: float = 1.0,
) -> Tensor:
    """The loss of `[B, D]` and `[B, D]` embeddings of unit length; float32 at least, also under autocast.

    A row without negatives counts as 0. Above 4,096 rows the matrix is taken a few rows at a time.

    Args:
        logit_scale: not used: the margin is in cosines.
        logit_bias: not used.
        ids: `[B]` integers, equal where rows are the same thing and never each other's negatives; by default every row is its own.
        margin: by how much the partner's cosine must be above a stranger's.
        hardest: share of the max of hinges, the w; the rest is their mean.

    Raises:
        ValueError: margin is not in (0, 2], or hardest not in [0, 1].
    """
    if not 0 < margin <= 2:
        raise ValueError(f"vsepp: margin is a difference of cosines, above 0 and at most 2, got {margin!r}; the paper's is 0.2")
    if not 0 <= hardest <= 1:
        raise ValueError(f"vsepp: hardest is a share, from 0 (the mean of hinges) to 1 (the max), got {hardest!r}")
    return hinges(a, b, ids, margin, hardest)


def _during(progress: float) -> dict[str, float]:
    """All negatives at the start, the hardest one alone after a fifth of the training."""
    return {"hardest": min(1.0, progress / WARM_UP)}


vsepp.init_logit_scale = None  # type: ignore[attr-defined]  # part of the contract: registry.LOSSES
vsepp.init_logit_bias = None  # type: ignore[attr-defined]
vsepp.during = _during  # type: ignore[attr-defined]

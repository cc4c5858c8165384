"""The triplet loss over all negatives of the batch, both ways: a row's partner is nearer than each stranger, by a margin.

    h_ij = max(0, m + x_i·y_j - x_i·y_i) over j with id_j ≠ id_i,   l(x, y) = 1/B Σ_i mean_j h_ij,   L = l(a, b) + l(b, a)

VSE++ calls this the sum of hinges, and sums over rows and negatives; here both are means, so that the loss, and with it what a limit of the
gradient's norm means, does not depend on the batch size. `vsepp` takes the worst negative instead of all.

Kiros et al., arXiv 1411.2539; Faghri et al. (VSE++), arXiv 1707.05612, equation 5.
"""

from torch import Tensor

from registry import LOSSES

from .hinges import hinges


@LOSSES.register("triplet")
def triplet(
    a: Tensor,
    b: Tensor,
    *,
    logit_scale: Tensor | None = None,
    logit_bias: Tensor | None = None,
    ids: Tensor | None = None,
    margin: float = 0.2,
) -> Tensor:
    """The loss of `[B, D]` and `[B, D]` embeddings of unit length; float32 at least, also under autocast.

    A row without negatives counts as 0. Above 4,096 rows the matrix is taken a few rows at a time.

    Args:
        logit_scale: not used: the margin is in cosines.
        logit_bias: not used.
        ids: `[B]` integers, equal where rows are the same thing and never each other's negatives; by default every row is its own.
        margin: by how much the partner's cosine must be above a stranger's.

    Raises:
        ValueError: margin is not in (0, 2].
    """
    if not 0 < margin <= 2:
        raise ValueError(f"triplet: margin is a difference of cosines, above 0 and at most 2, got {margin!r}; the paper's is 0.2")
    return hinges(a, b, ids, margin, hardest=0.0)


triplet.init_logit_scale = None  # type: ignore[attr-defined]  # part of the contract: registry.LOSSES
triplet.init_logit_bias = None  # type: ignore[attr-defined]

"""ALIGN's loss: InfoNCE both ways, with smoothed labels and a temperature that starts at 1.

    L = 1/2 [ H(t, softmax_j(s a_i·b_j)) + H(t, softmax_j(s b_i·a_j)) ],   t_ij = (1-ε) [id_i = id_j] / (how many rows have id_i) + ε/B

Pairs from the web are often wrong, so no row is asked to be sure of its partner. Smoothing also bounds the scale: where t is not 0 or 1,
a larger scale stops paying. Its targets for rows of the same id are those of `clip`; the paper has one positive a row.

Jia et al., "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision", arXiv 2102.05918.
"""

from torch import Tensor

from registry import LOSSES

from .infonce import infonce


@LOSSES.register("align")
def align(
    a: Tensor,
    b: Tensor,
    *,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    ids: Tensor | None = None,
    smoothing: float = 0.1,
) -> Tensor:
    """The loss of `[B, D]` and `[B, D]` embeddings of unit length; float32 at least, also under autocast.

    Above 4,096 rows the matrix is taken a few rows at a time: the same value and gradients, but no second derivatives.

    Args:
        logit_scale: multiplies the cosines; already exponentiated.
        logit_bias: not used: a constant cancels in the softmax.
        ids: `[B]` integers, equal where rows are the same thing; by default every row is its own.
        smoothing: the share of the target that all rows of the batch get alike, the ε.

    Raises:
        ValueError: smoothing is not in [0, 1).
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"align: smoothing is a share of the target, 0 or more and below 1, got {smoothing!r}; the paper's is 0.1")
    return infonce(a, b, logit_scale, ids, smoothing)


align.init_logit_scale = 0.0  # type: ignore[attr-defined]  # part of the contract: registry.LOSSES
align.init_logit_bias = None  # type: ignore[attr-defined]

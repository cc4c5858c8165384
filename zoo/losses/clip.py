"""InfoNCE both ways: among all of the batch, each row finds its partner. Rows that are the same thing share the target evenly.

    L = 1/2 [ H(t, softmax_j(s a_i·b_j)) + H(t, softmax_j(s b_i·a_j)) ],   t_ij = [id_i = id_j] / (how many rows have id_i)

H is the cross-entropy, averaged over the rows. When all ids differ, t is the identity and this is CLIP's loss. Without ids two captions of
one picture count as each other's negatives: in small data sets the commonest complaint.

CLIP: Radford et al., arXiv 2103.00020. Several positives: UniCL, Yang et al., arXiv 2204.03610.
"""

import math

from torch import Tensor

from registry import LOSSES

from .infonce import infonce


@LOSSES.register("clip")
def clip(a: Tensor, b: Tensor, *, logit_scale: Tensor, logit_bias: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
    """The loss of `[B, D]` and `[B, D]` embeddings of unit length; float32 at least, also under autocast.

    Above 4,096 rows the matrix is taken a few rows at a time: the same value and gradients, but no second derivatives.

    Args:
        logit_scale: multiplies the cosines; already exponentiated.
        logit_bias: not used: a constant cancels in the softmax.
        ids: `[B]` integers, equal where rows are the same thing; by default every row is its own.
    """
    return infonce(a, b, logit_scale, ids, smoothing=0.0)


clip.init_logit_scale = math.log(1 / 0.07)  # type: ignore[attr-defined]  # part of the contract: registry.LOSSES
clip.init_logit_bias = None  # type: ignore[attr-defined]

"""InfoNCE both ways: among all of the batch, each row finds its partner. Rows that are the same thing share the target evenly.

    L = 1/2 [ H(t, softmax_j(s a_i·b_j)) + H(t, softmax_j(s b_i·a_j)) ],   t_ij = [id_i = id_j] / (how many rows have id_i)

H is the cross-entropy, averaged over the rows. When all ids differ, t is the identity and this is CLIP's loss. Without ids two captions of
one picture count as each other's negatives: in small data sets the commonest complaint.

CLIP: Radford et al., arXiv 2103.00020. Several positives: UniCL, Yang et al., arXiv 2204.03610.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from registry import LOSSES

from . import rows


@LOSSES.register("clip")
def clip(a: Tensor, b: Tensor, *, logit_scale: Tensor, logit_bias: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
    """The loss of `[B, D]` and `[B, D]` embeddings of unit length; float32 at least, also under autocast.

    Above 4,096 rows the matrix is taken a few rows at a time: the same value and gradients, but no second derivatives.

    Args:
        logit_scale: multiplies the cosines; already exponentiated.
        logit_bias: not used: a constant cancels in the softmax.
        ids: `[B]` integers, equal where rows are the same thing; by default every row is its own.
    """
    with torch.autocast(a.device.type, enabled=False):
        dtype = torch.promote_types(a.dtype, torch.float32)
        if len(a) > rows.WHOLE:
            return _by_rows(a.to(dtype), b.to(dtype), logit_scale.to(dtype), ids)
        logits = logit_scale.to(dtype) * (a.to(dtype) @ b.to(dtype).T)
        if ids is None:
            target = torch.arange(len(a), device=a.device)
        else:
            same = (ids[:, None] == ids[None, :]).to(dtype)
            target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _by_rows(a: Tensor, b: Tensor, scale: Tensor, ids: Tensor | None) -> Tensor:
    """The same for a large batch. A column's normaliser takes all rows, so there is a pass for those first."""
    total = len(a)
    ids = torch.arange(total, device=a.device) if ids is None else ids
    _, which, sizes = ids.unique(return_inverse=True, return_counts=True)
    columns = a.new_full((total,), -math.inf)
    with torch.no_grad():
        for chunk in rows.chunks(total):
            columns = torch.logaddexp(columns, rows.logits_of(a[chunk], b, scale, None).logsumexp(0))

    def terms(chunk: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        sums = logits.logsumexp(1)
        i, j = (which[chunk, None] == which[None, :]).nonzero(as_tuple=True)  # who is whose partner: few
        share = 1 / sizes[which[chunk]].to(logits.dtype)[i]
        value = (sums.sum(dtype=torch.float64) + columns[chunk].sum(dtype=torch.float64)) / 2
        value = value - (share * logits[i, j]).sum(dtype=torch.float64)
        slope = (logits - columns).exp_().add_(logits.sub_(sums[:, None]).exp_()).mul_(0.5)
        slope[i, j] -= share
        return value / total, slope.div_(total)

    return rows.by_rows(a, b, scale, None, terms)


clip.init_logit_scale = math.log(1 / 0.07)  # type: ignore[attr-defined]  # part of the contract: registry.LOSSES
clip.init_logit_bias = None  # type: ignore[attr-defined]

"""InfoNCE both ways, with targets that are shared by rows of the same id and smoothed: what `clip` and `align` are made of.

L = 1/2 [ H(t, softmax_j(s a_i·b_j)) + H(t, softmax_j(s b_i·a_j)) ],   t_ij = (1-ε) [id_i = id_j] / (how many rows have id_i) + ε/B
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers.precision import at_least_float32
from . import rows


def infonce(a: Tensor, b: Tensor, logit_scale: Tensor, ids: Tensor | None, smoothing: float) -> Tensor:
    """The loss of `[B, D]` and `[B, D]`; above 4,096 rows a few rows of the matrix at a time. `smoothing` is the ε."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = at_least_float32(a), at_least_float32(b)
        logit_scale = logit_scale.to(a.dtype)
        if len(a) > rows.WHOLE:
            return _by_rows(a, b, logit_scale, ids, smoothing)
        logits = logit_scale * (a @ b.T)
        if ids is None:
            target = torch.arange(len(a), device=a.device)
        else:
            same = (ids[:, None] == ids[None, :]).to(a.dtype)
            target = same / same.sum(1, keepdim=True)
        both = (F.cross_entropy(each, target, label_smoothing=smoothing) for each in (logits, logits.T))
        return sum(both, start=logits.new_zeros(())) / 2


def _by_rows(a: Tensor, b: Tensor, scale: Tensor, ids: Tensor | None, smoothing: float) -> Tensor:
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
        share = (1 - smoothing) / sizes[which[chunk]].to(logits.dtype)[i]
        value = (sums.sum(dtype=torch.float64) + columns[chunk].sum(dtype=torch.float64)) / 2
        value = value - (share * logits[i, j]).sum(dtype=torch.float64)
        if smoothing:
            value = value - smoothing / total * logits.sum(dtype=torch.float64)
        slope = (logits - columns).exp_().add_(logits.sub_(sums[:, None]).exp_()).mul_(0.5)
        slope[i, j] -= share
        if smoothing:
            slope -= smoothing / total
        return value / total, slope.div_(total)

    return rows.by_rows(a, b, scale, None, terms)

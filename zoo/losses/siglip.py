"""The sigmoid loss: every pair of rows is a question of its own, "the same thing or not?". No softmax over the batch.

    L = 1/B Σ_ij log(1 + exp(-z_ij (s a_i·b_j + β))),   z_ij = +1 where rows i and j are the same thing, else -1

β starts at log(1/(B-1)), at which the sigmoid of the bias alone is 1/B: the share of positives among a row's B pairs. The paper's -10 is
this for a batch of 22 thousand; random 256-wide embeddings in a batch of 32 start at a loss of 10 with it, and at 4.6 with log(1/31).

Zhai et al., "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from registry import LOSSES

from . import rows


@LOSSES.register("siglip")
def siglip(a: Tensor, b: Tensor, *, logit_scale: Tensor, logit_bias: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
    """The loss of `[B, D]` and `[B, D]` embeddings of unit length; float32 at least, also under autocast.

    Above 4,096 rows the matrix is taken a few rows at a time: the same value and gradients, but no second derivatives.

    Args:
        logit_scale: multiplies the cosines; already exponentiated.
        logit_bias: added to them; None adds nothing.
        ids: `[B]` integers, equal where rows are the same thing; by default every row is its own.
    """
    with torch.autocast(a.device.type, enabled=False):
        dtype = torch.promote_types(a.dtype, torch.float32)
        if len(a) > rows.WHOLE:
            return _by_rows(a.to(dtype), b.to(dtype), logit_scale.to(dtype), None if logit_bias is None else logit_bias.to(dtype), ids)
        logits = logit_scale.to(dtype) * (a.to(dtype) @ b.to(dtype).T)
        if logit_bias is not None:
            logits = logits + logit_bias.to(dtype)
        if ids is None:
            ids = torch.arange(len(a), device=a.device)
        label = torch.where(ids[:, None] == ids[None, :], 1.0, -1.0).to(dtype)
        return -F.logsigmoid(label * logits).sum() / len(a)


def _by_rows(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, ids: Tensor | None) -> Tensor:
    """The same for a large batch."""
    total = len(a)
    names = torch.arange(total, device=a.device) if ids is None else ids

    def terms(chunk: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        i, j = (names[chunk, None] == names[None, :]).nonzero(as_tuple=True)  # few
        positive = logits[i, j]
        value = F.softplus(logits).sum(dtype=torch.float64) - positive.sum(dtype=torch.float64)  # softplus(-x) = softplus(x) - x
        slope = logits.sigmoid_()
        slope[i, j] -= 1
        return value / total, slope.div_(total)

    return rows.by_rows(a, b, scale, bias, terms)


def _init_logit_bias(batch_size: int) -> float:
    return -math.log(max(batch_size - 1, 1))


siglip.init_logit_scale = math.log(10)  # type: ignore[attr-defined]  # part of the contract: registry.LOSSES
siglip.init_logit_bias = _init_logit_bias  # type: ignore[attr-defined]

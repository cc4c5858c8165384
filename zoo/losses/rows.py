"""Losses over all pairs of a large batch, in memory for a few rows of the matrix.

The matrix of a batch of 65,536 is 16 GiB, and autograd keeps several. Here a chunk of rows is computed, its part of the value and of the
gradients is added up, and it is gone: O(rows * N) memory beside the gradients themselves, [N, D] twice. Value and gradients are those of
the whole matrix, in another order of summation.

`by_rows` is told the gradients, and computes each logit once: they cannot be differentiated once more. `summed` is told the value only, and
computes each chunk again in the backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

WHOLE = 4096  # rows of a batch whose matrix is computed at once
_NUMBERS = 1 << 25  # of a chunk: 128 MiB in float32

Terms = Callable[[slice, Tensor], tuple[Tensor, Tensor]]
"""`f(rows, logits)` -> these rows' part of the value, and its gradient with respect to their logits, [rows, N]."""


def chunks(total: int) -> list[slice]:
    size = max(1, _NUMBERS // total)
    return [slice(first, min(first + size, total)) for first in range(0, total, size)]


def logits_of(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    logits = (a @ b.T).mul_(scale)
    return logits if bias is None else logits.add_(bias)


class _ByRows(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, terms: Terms) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        value = torch.zeros((), dtype=torch.float64, device=a.device)
        ga, gb = (torch.zeros_like(a), torch.zeros_like(b)) if wanted else (None, None)
        gscale, gbias = torch.zeros_like(value), torch.zeros_like(value)
        for rows in chunks(len(a)):
            part, slope = terms(rows, logits_of(a[rows], b, scale, bias))
            value += part
            if ga is not None and gb is not None:
                torch.mm(slope, b, out=ga[rows])
                gb.addmm_(slope.T, a[rows])
                gscale += (ga[rows] * a[rows]).sum(dtype=torch.float64)  # the sum of slope * cosine
                gbias += slope.sum(dtype=torch.float64)
        if ga is not None and gb is not None:
            shaped = None if bias is None else gbias.to(bias.dtype).expand_as(bias).clone()
            gscale = gscale.to(scale.dtype).expand_as(scale).clone()
            ctx.save_for_backward(ga.mul_(scale), gb.mul_(scale), gscale, shaped)
        return value.to(a.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(f"a loss of more than {WHOLE} rows has no second derivatives (create_graph=True): take smaller batches")
        each = zip(ctx.saved_tensors, ctx.needs_input_grad[:4], strict=True)
        return (*(value * grad if needed and value is not None else None for value, needed in each), None)


def by_rows(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, terms: Terms) -> Tensor:
    """The sum of all rows' parts: a scalar, differentiable with respect to a, b `[N, D]`, scale and bias, of one element each."""
    return _ByRows.apply(a, b, scale, bias, terms)


def summed(total: int, part: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """The sum of `part(*given, rows)` over all rows: at once, or a chunk at a time when there are many; any order of derivatives."""
    if total <= WHOLE:
        return part(*given, slice(0, total))
    parts = [checkpoint(part, *given, rows, use_reentrant=False, preserve_rng_state=False) for rows in chunks(total)]
    return torch.stack(parts).sum()

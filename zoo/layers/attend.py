"""Attention pooling: a weighted mean of the pixels, the weights a softmax of a 1x1 convolution. See gating.py for why x passes through."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from .gating import call, chunks, direct, samples, save, twice
from .precision import at_least_float32


def _attend(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    logits = at_least_float32(F.conv2d(x, weight, bias).flatten(2))
    attention = torch.softmax(logits, 2).to(x.dtype)
    return x, (x.flatten(2) @ attention.transpose(1, 2)).unsqueeze(3)


def _by_sample(x: Tensor, weights: Tensor) -> Tensor:
    """[B, C, N] @ [B, N] -> [B, C]; a batched product with one column is several times slower."""
    return torch.stack([torch.mv(one, by) for one, by in zip(x, weights, strict=True)])


class _Attend(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, alone: bool) -> tuple[Tensor, Tensor]:
        row = weight.view(1, 1, -1)
        contexts, attentions = [], []
        for (part,) in chunks(samples(x), x.flatten(2)):
            attentions.append(torch.softmax((row.expand(part.shape[0], 1, -1) @ part).squeeze(1) + bias, 1))
            contexts.append(_by_sample(part, attentions[-1]))
        save(ctx, x, weight, bias, torch.cat(attentions))
        if ctx is not None:
            ctx.alone = alone
        return x, torch.cat(contexts)[:, :, None, None]

    @twice(lambda x, weight, bias: _attend(x, weight, bias))
    def backward(ctx: Any, gx: Tensor | None, gcontext: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, attentions = ctx.saved_tensors
        if gcontext is None:
            return gx, None, None, None
        if ctx.needs_input_grad[0]:
            gx = torch.zeros_like(x) if gx is None else gx
            out = gx if ctx.alone and gx.stride() == x.stride() else torch.empty_like(x)
        else:
            gx = out = x  # neither read nor written
        total, gbias = torch.zeros_like(weight).view(-1), torch.zeros_like(bias)
        column = weight.view(1, -1, 1)
        for part, given, to, context, attention in chunks(
            samples(x), x.flatten(2), gx.flatten(2), out.flatten(2), gcontext.flatten(2), attentions
        ):
            slope = (context.transpose(1, 2) @ part).squeeze(1)
            glogits = attention * (slope - (attention * slope).sum(1, keepdim=True))
            total += _by_sample(part, glogits).sum(0)
            gbias += glogits.sum()
            if out is not x:
                left = torch.cat([column.expand(part.shape[0], -1, 1), context], 2)
                torch.baddbmm(given, left, torch.stack([glogits, attention], 1), out=to)
        return None if out is x else out, total.view(weight.shape), gbias, None


def attend(x: Tensor, weight: Tensor, bias: Tensor | None, alone: bool = True) -> tuple[Tensor, Tensor]:
    """[B, C, H, W], a convolution's [1, C, 1, 1] and [1] -> x, its mean [B, C, 1, 1] by softmax over the pixels.

    `alone` says that x goes on to `scale` and nowhere else; False that the gradient of x may be somebody else's tensor, as behind a sum.
    """
    if not torch.jit.is_scripting():
        if direct(x) and (torch.is_grad_enabled() or x.shape[0] > 1):
            same, context = call(_Attend, x, weight, weight.new_zeros(1) if bias is None else bias, alone)
            return same if x.requires_grad else x, context
    return _attend(x, weight, bias)

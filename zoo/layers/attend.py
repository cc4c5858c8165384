"""Attention pooling: a weighted mean of the pixels, the weights a softmax of a 1x1 convolution. See gating.py for why x passes through."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from .gating import call, chunks, direct, samples, save, twice


def _attend(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    logits = F.conv2d(x, weight, bias).flatten(2)
    attention = torch.softmax(logits, 2, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)  # [B, 1, H * W]
    return x, (x.flatten(2) @ attention.transpose(1, 2)).unsqueeze(3)


def _by_sample(x: Tensor, weights: Tensor) -> Tensor:
    """[B, C, N] @ [B, N] -> [B, C]; a batched product with one column is several times slower."""
    return torch.stack([torch.mv(one, by) for one, by in zip(x, weights, strict=True)])


class _Attend(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, owned: bool) -> tuple[Tensor, Tensor]:
        row = weight.view(1, 1, -1)
        contexts, attentions = [], []
        for (part,) in chunks(samples(x), x.flatten(2)):
            attention = torch.softmax((row.expand(part.shape[0], -1, -1) @ part).squeeze(1) + bias, 1)
            contexts.append(_by_sample(part, attention))
            attentions.append(attention)
        save(ctx, x, weight, bias, torch.cat(attentions))
        if ctx is not None:
            ctx.owned = owned
        return x, torch.cat(contexts)[:, :, None, None]

    @twice(lambda x, weight, bias, _: _attend(x, weight, bias))
    def backward(ctx: Any, gx: Tensor | None, gcontext: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, attentions = ctx.saved_tensors
        if gcontext is None:
            return gx, None, None, None
        out = torch.zeros_like(x) if gx is None else gx if ctx.owned else gx.clone(memory_format=torch.preserve_format)
        column = weight.view(1, -1, 1)
        gweight, gbias = torch.zeros_like(weight).view(-1), torch.zeros_like(bias)
        small = (gcontext.flatten(2), attentions)  # [B, C, 1], [B, H * W]
        for part, to, pull, attention in chunks(samples(x), x.flatten(2), out, *small):
            slope = torch.bmm(pull.transpose(1, 2), part).squeeze(1)
            glogits = attention * (slope - (attention * slope).sum(1, keepdim=True))
            gweight += _by_sample(part, glogits).sum(0)
            gbias += glogits.sum()
            left = torch.cat([column.expand(part.shape[0], -1, 1), pull], 2)  # [b, C, 2]
            right = torch.stack([glogits, attention], 1)  # [b, 2, H * W]
            to.add_(torch.bmm(left, right).view(part.shape[0], -1, *x.shape[2:]))
        return out, gweight.view(weight.shape), gbias, None


def attend_pixels(x: Tensor, weight: Tensor, bias: Tensor | None, owned: bool) -> tuple[Tensor, Tensor]:
    """[B, C, H, W], a 1x1 convolution's weight [1, C, 1, 1] and bias [1] -> x, the attended mean [B, C, 1, 1].

    Args:
        owned: x goes into `scale` next, and nowhere else, so that its gradient is nobody else's.
    """
    if not torch.jit.is_scripting():
        if bias is not None and direct(x):
            return call(_Attend, x, weight, bias, owned)
    return _attend(x, weight, bias)

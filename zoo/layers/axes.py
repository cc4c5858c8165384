"""Means along the two axes of a map, and scaling by a gate an axis. See gating.py for why x passes through.

In the memory order B, C, H, W these are sums over seven neighbouring numbers, and products with seven, which a CPU does slowly. On the
smallest maps the means are a product with a constant matrix instead, [C, H * W] @ [H * W, H + W], and the gates are multiplied with the
channels innermost; on small ones a sum is a product with a vector of ones. Two gates times each other and then x are faster than x times
one and the other.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .gating import LEAST, call, chunks, direct, samples, save, scratch, twice


def _pool_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.cat([x.mean(3), x.mean(2)], 2).unsqueeze(3)


def _scale_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return x * columns.transpose(2, 3) * rows


@functools.lru_cache(maxsize=64)
def _axes(height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[H, H * W] and [W, H * W] of zeros and ones: which pixels are a row's, which a column's."""
    with torch.inference_mode(False), torch.device("cpu"):
        rows, columns = torch.eye(height, dtype=dtype), torch.eye(width, dtype=dtype)
        return rows.repeat_interleave(width, 1), columns.repeat(1, height)


def _tiny(x: Tensor) -> bool:
    return x.shape[2] * x.shape[3] <= 64 and x.is_contiguous()


def _turned(strip: Tensor) -> Tensor:
    """[B, C, N, 1] -> [B, N, C] in memory; what the linear layer of a strip brings is so already."""
    return strip.squeeze(3).transpose(1, 2).contiguous()


def _product(rows: Tensor, columns: Tensor) -> Tensor:
    """Of turned gates, [B, C, H * W] in memory."""
    return (rows[:, :, None] * columns[:, None]).flatten(1, 2).transpose(1, 2).contiguous()


def _pays(x: Tensor) -> bool:
    """Whether the direct form serves and is worth its dispatch."""
    return direct(x) and (x.numel() >= LEAST or (_tiny(x) and not torch.is_grad_enabled()))


def _strip(x: Tensor, strip: Tensor) -> Tensor:
    """[B, C, H, 1] or [B, C, 1, W] in the memory order of x, or the products run element by element."""
    return strip.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)


def _along_rows(x: Tensor) -> Tensor:
    """Sums over the width, [B, C, H]."""
    if x.shape[3] > 32 or not x.is_contiguous():
        return x.sum(3)
    return (x.view(-1, x.shape[3]) @ x.new_ones(x.shape[3])).view(x.shape[:3])


class _PoolAxes(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        height, width = x.shape[2:]
        save(ctx, x)
        if _tiny(x):
            rows, columns = _axes(height, width, x.dtype)
            means = torch.cat([rows / width, columns / height])
            return x, (means @ x.flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(3)
        pairs = [(_along_rows(part) / width, part.mean(2)) for (part,) in chunks(samples(x), x)]
        strips = [torch.cat(pair, 2) for pair in pairs]
        return x, (strips[0] if len(strips) == 1 else torch.cat(strips)).unsqueeze(3)

    @twice(_pool_axes)
    def backward(ctx: Any, gx: Tensor | None, gstrips: Tensor | None) -> Tensor:
        (x,) = ctx.saved_tensors
        gx = torch.zeros_like(x) if gx is None else gx
        if gstrips is None:
            return gx
        channels, height, width = x.shape[1:]
        if _tiny(x) and gx.is_contiguous():
            rows, columns = _axes(height, width, x.dtype)
            gx.view(-1, height * width).addmm_(gstrips.reshape(-1, height + width), torch.cat([rows / width, columns / height]))
            return gx
        grows, gcolumns = gstrips[:, :, :height] / width, gstrips[:, :, height:].transpose(2, 3) / height
        for to, row, column in chunks(samples(x), gx, _strip(x, grows), _strip(x, gcolumns)):
            to.add_(row).add_(column)
        return gx


class _ScaleAxes(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        save(ctx, x, rows, columns)
        y = torch.empty_like(x)
        if _tiny(x):
            torch.mul(_product(_turned(rows), _turned(columns)), x.flatten(2), out=y.flatten(2))
            return y
        for part, row, column, out in chunks(samples(x), x, _strip(x, rows), _strip(x, columns.transpose(2, 3)), y):
            torch.mul(row, column, out=out).mul_(part)
        return y

    @twice(_scale_axes)
    def backward(ctx: Any, gy: Tensor | None) -> tuple[Tensor | None, ...]:
        x, rows, columns = ctx.saved_tensors
        if gy is None:
            return None, None, None
        if _tiny(x):
            row, column = _turned(rows), _turned(columns)
            slope = x.new_empty(x.shape[0], *x.shape[2:], x.shape[1])
            for turned, straight in zip(slope.flatten(1, 2), (gy * x).flatten(2), strict=True):
                turned.copy_(straight.t())  # torch turns a matrix in blocks, a batch of them element by element
            grows, gcolumns = (slope * column[:, None]).sum(2), slope.mul_(row[:, :, None]).sum(1)
            gx = _product(row, column).view(x.shape).mul_(gy) if ctx.needs_input_grad[0] else None
            return gx, grows.transpose(1, 2).unsqueeze(3), gcolumns.transpose(1, 2).unsqueeze(3)
        size = samples(x)
        space, space2 = scratch(x, size), scratch(x, size)
        gx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        small = (_strip(x, rows), _strip(x, columns.transpose(2, 3)))
        found = []
        for part, given, to, row, column in chunks(size, x, gy, x if gx is None else gx, *small):
            slope = torch.mul(given, part, out=space[: part.shape[0]])
            grow = _along_rows(torch.mul(slope, column, out=space2[: part.shape[0]]))
            found.append((grow, slope.mul_(row).sum(2)))
            if gx is not None:
                torch.mul(row, column, out=to).mul_(given)
        grows, gcolumns = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
        return gx, grows.unsqueeze(3), gcolumns.unsqueeze(3)


def pool_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, H, W] -> x, means over the width and then over the height [B, C, H + W, 1]."""
    if not torch.jit.is_scripting():
        if _pays(x):
            return call(_PoolAxes, x)
    return _pool_axes(x)


def scale_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x * columns * rows: [B, C, H, W] by a row's gate [B, C, H, 1] and a column's [B, C, W, 1]."""
    if not torch.jit.is_scripting():
        if _pays(x):
            return call(_ScaleAxes, x, rows, columns)
    return _scale_axes(x, rows, columns)

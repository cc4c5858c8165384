"""Batch norms over the rows of all processes, as if one process had them all.

    mean = Σ_r Σ x / n;   var = Σ_r Σ (x - mean)² / n;   y = (x - mean) / sqrt(var + eps) γ + β        n: values a channel of all processes

With few rows a process the statistics of its own rows are noisy; with these, any number of processes computes what one does. torch's
SyncBatchNorm does it on GPUs only; here the sums travel with their gradients, on any device. A module stays the one it is, under its own
name and with its own activation, and only its `forward` is another, so that a run is read everywhere.

Ioffe and Szegedy, arXiv 1502.03167; over several devices: Peng et al., "MegDet", arXiv 1711.07240.
"""

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn

from ..layers import BatchNorm


class _Sum(torch.autograd.Function):
    """The sum over the processes, in all of them; so is the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def _normalise(norm: nn.modules.batchnorm._BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """`[B, C, ...]` -> the same, with the statistics of all processes; they are learned as torch learns them."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    count = wide.new_tensor([x.numel() / x.shape[1]])
    sums = _Sum.apply(torch.cat([wide.sum(axes), count]))
    n = sums[-1].detach()
    mean = sums[:-1] / n
    away = wide - mean.view(shape)
    var = _Sum.apply(away.square().sum(axes)) / n
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            if not isinstance(norm, BatchNorm):  # ours does not count
                norm.num_batches_tracked += 1
            momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
            norm.running_var.lerp_((var * (n / (n - 1))).to(norm.running_var.dtype), momentum)
    y = away * torch.rsqrt(var + norm.eps).view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)


class _SyncNorm(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _normalise(self, x) if self.training and dist.is_initialized() else super().forward(x)


class _SyncNorm1d(nn.BatchNorm1d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _normalise(self, x) if self.training and dist.is_initialized() else super().forward(x)


class _SyncGateNorm(BatchNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _normalise(self, x) if self.training and dist.is_initialized() else super().forward(x)


class _SyncNormAct(BatchNormAct2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(_normalise(self, x))) if self.training and dist.is_initialized() else super().forward(x)


_SYNCED: dict[type, type] = {
    nn.BatchNorm2d: _SyncNorm,
    nn.BatchNorm1d: _SyncNorm1d,
    BatchNorm: _SyncGateNorm,
    BatchNormAct2d: _SyncNormAct,
}


def sync_batch_norms(module: nn.Module, device: torch.device) -> int:
    """Let the batch norms of a network share their statistics, in place; returns how many do.

    On a GPU they become torch's and timm's own; names, weights and statistics are the same.

    Raises:
        ValueError: a batch norm of a kind that is not known here.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if device.type == "cuda":
        convert_sync_batchnorm(module)
        return len(norms)
    for norm in norms:
        kind = type(norm)
        if kind not in _SYNCED and kind not in _SYNCED.values():
            known = ", ".join(each.__name__ for each in _SYNCED)
            raise ValueError(f"sync_bn: {kind.__name__} cannot share its statistics on a CPU; expected {known}")
        norm.__class__ = _SYNCED.get(kind, kind)
    return len(norms)

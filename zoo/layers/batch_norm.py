"""Batch norm over [B, C, H, W] that also takes one value a channel."""

import torch
import torch.nn.functional as F
from torch import nn


@torch.fx.wrap  # the branch on the shape is opaque to a tracer
def _batch_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> torch.Tensor:
    if training and x.numel() == x.shape[1]:  # one value has no variance: the running statistics stand in
        training = False
    return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that lets a single value a channel pass (batch 1, a 1x1 map): [B, C, H, W] -> the same shape.

    torch raises there in train mode. A module of its own kind, so that freezing, SyncBatchNorm and momentum find it.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    momentum: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps)

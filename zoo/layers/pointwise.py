"""A 1x1 convolution of few pixels."""

import torch
import torch.nn.functional as F
from torch import nn

from .gating import direct


@torch.fx.wrap  # the branch on the memory order is opaque to a tracer
def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if x.stride(1) == 1:
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    if not torch.jit.is_scripting():
        if direct(x) and bias is not None:
            matrices = weight.flatten(1).expand(x.shape[0], -1, -1)
            return torch.baddbmm(bias[:, None], matrices, x.flatten(2)).unflatten(2, x.shape[2:])
    return F.conv2d(x, weight, bias)


class PointwiseConv2d(nn.Conv2d):
    """`nn.Conv2d(in_channels, out_channels, 1)`, key for key: [B, C, H, W] -> [B, out_channels, H, W].

    Where the channels of a pixel lie side by side it is computed as a linear layer, else as a matrix product a sample: for a strip of
    pixels a CPU's convolution takes up to twice as long and more, most of it for bringing the weights into its own order.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True, device=None, dtype=None):
        super().__init__(in_channels, out_channels, 1, bias=bias, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _pointwise(x, self.weight, self.bias)

"""Efficient Local Attention: coordinate attention without the bottleneck, each strip read by a convolution along itself.

    y_h = sigmoid(GN(F_h(mean_w(x))))      [B, C, H, 1]
    y_w = sigmoid(GN(F_w(mean_h(x))))      [B, C, 1, W]
    y   = x * y_h * y_w

F are 1-D convolutions without bias. The paper's sizes are T (kernel_size 5, norm_groups 32), B (7, 16; the default) and, with group_width
8, S (5, 16) and L (7, 16). timm's `EfficientLocalAttn` has the same keys, but one group in the norm and a SiLU after it.

Xu and Wan, ELA: Efficient Local Attention for Deep Convolutional Neural Networks, arXiv 2403.01123.
"""

import math
from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers.group_norm import GroupNorm
from ..layers.narrow import narrow_each


@ATTENTION.register("ela")
class ELA(nn.Module):
    """Row gate and column gate for every channel; use it where position matters and parameters and batches are small.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        kernel_size: of the convolutions; odd, 7 in the paper's B.
        group_width: channels that a convolution mixes; 1 in the paper's T and B, 8 in S and L.
        norm_groups: of the group norm, 16 in the paper's B; at other widths the largest divisor of C that is not above it.
        calm: start with both norms' weights at zero, so that the gate is constant (one quarter) until training moves it.

    Raises:
        ValueError: an even kernel, a group width that does not divide the channels, no norm group at all.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        kernel_size: int = 7,
        group_width: int = 1,
        norm_groups: int = 16,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"ela kernel_size: expected an odd number such as 5 or 7, got {kernel_size}")
        if group_width < 1 or channels % group_width:
            raise ValueError(f"ela group_width: expected a divisor of {channels} channels such as 1 or 8, got {group_width}")
        if norm_groups < 1:
            raise ValueError(f"ela norm_groups: expected a positive number such as 16, got {norm_groups}")
        dd = {"device": device, "dtype": dtype}
        k, pad, conv_groups = kernel_size, kernel_size // 2, channels // group_width
        norm_groups = max(n for n in range(1, norm_groups + 1) if channels % n == 0)
        # as many of each norm's group; where convolutions mix channels, whole groups of both
        self.channel_parts = norm_groups if group_width == 1 else 1
        self.channel_unit = 1 if group_width == 1 else math.lcm(group_width, channels // norm_groups)
        self.conv_h = nn.Conv2d(channels, channels, (k, 1), padding=(pad, 0), groups=conv_groups, bias=False, **dd)
        self.conv_w = nn.Conv2d(channels, channels, (1, k), padding=(0, pad), groups=conv_groups, bias=False, **dd)
        self.norm_h = GroupNorm(norm_groups, channels, **dd)
        self.norm_w = GroupNorm(norm_groups, channels, **dd)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.conv_h, self.conv_w, self.norm_h, self.norm_w):
            layer.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.norm_h.weight)
            nn.init.zeros_(self.norm_w.weight)

    def narrow(self, keep: Sequence[int]) -> None:
        if self.channel_parts == 1:  # whole groups of the norms
            width = self.norm_h.num_channels // self.norm_h.num_groups
            self.norm_h.num_groups = self.norm_w.num_groups = len(keep) // width
        for layer in (self.conv_h, self.conv_w, self.norm_h, self.norm_w):
            narrow_each(layer, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.sigmoid(self.norm_h(self.conv_h(x.mean(3, keepdim=True))))
        columns = torch.sigmoid(self.norm_w(self.conv_w(x.mean(2, keepdim=True))))
        return x * rows * columns

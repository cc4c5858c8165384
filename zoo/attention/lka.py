"""Large Kernel Attention: a 21 x 21 neighbourhood decides on every value, through three convolutions that are cheap one by one.

    a = conv1x1(D7x7_dilated_by_3(D5x5(x))),    y = x * a                   D: depthwise

The weights a are not bounded: the paper does without a sigmoid. The authors' block has 1x1 convolutions and a GELU around this.

Guo et al., Visual Attention Network, arXiv 2202.09741, equations 1 and 2.
"""

import math
from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers.narrow import narrow_each, narrow_in, narrow_out


@ATTENTION.register("lka")
class LKA(nn.Module):
    """A weight for every value from a wide neighbourhood; use it in late stages, where channels are many and pixels few.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        calm: start with the 1x1 convolution at weight zero and bias one, so that y = x until training moves it.
    """

    attends = "both"

    def __init__(self, channels: int, *, rd_ratio: float = 1.0, act_layer: LayerType = "relu", calm: bool = False, device=None, dtype=None):
        super().__init__()
        self.local = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, device=device, dtype=dtype)
        self.wide = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels, device=device, dtype=dtype)
        self.point = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.local, self.wide, self.point):
            fan_out = layer.weight[0, 0].numel() * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # they are built with one
        if self.calm:
            nn.init.zeros_(self.point.weight)
            nn.init.ones_(self.point.bias)  # type: ignore[arg-type]

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_each(self.local, keep)
        narrow_each(self.wide, keep)
        narrow_in(self.point, keep)
        narrow_out(self.point, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.point(self.wide(self.local(x)))

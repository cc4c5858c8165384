"""Strip Pooling Module: every pixel is gated by what its whole row and its whole column hold.

    h = BN(conv3x1(mean_w(x)))      [B, C, H, 1]
    w = BN(conv1x3(mean_h(x)))      [B, C, 1, W]
    y = x * sigmoid(conv1x1(relu(h + w)))

The strip convolutions mix all channels and have no bias. timm's `StripAttn` is another gate, depthwise and
without what follows the sum.

Hou et al., Strip Pooling: Rethinking Spatial Pooling for Scene Parsing, arXiv 2003.13328, equations 1-4.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm
from ..layers.narrow import narrow_each, narrow_in, narrow_out


@ATTENTION.register("strip")
class StripPooling(nn.Module):
    """Pixel and channel gate of long reach, seven full C x C matrices; use it in narrow stages, or where whole rows and columns matter.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: accepted for the contract; this gate has no bottleneck.
        act_layer: after the sum; the paper's ReLU by default.
        kernel_size: along the strips; odd, the paper's 3 by default.
        calm: start with the last convolution at zero, so that the gate is constant (one half) until training moves it.

    Raises:
        ValueError: an even kernel.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        kernel_size: int = 3,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"strip kernel_size: expected an odd number such as 3 or 5, got {kernel_size}")
        dd = {"device": device, "dtype": dtype}
        k, pad = kernel_size, kernel_size // 2
        self.conv_h = nn.Conv2d(channels, channels, (k, 1), padding=(pad, 0), bias=False, **dd)
        self.bn_h = BatchNorm(channels, **dd)
        self.conv_w = nn.Conv2d(channels, channels, (1, k), padding=(0, pad), bias=False, **dd)
        self.bn_w = BatchNorm(channels, **dd)
        self.act = create_act_layer(act_layer)
        self.fuse = nn.Conv2d(channels, channels, 1, **dd)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.conv_h, self.bn_h, self.conv_w, self.bn_w, self.fuse):
            layer.reset_parameters()
        for conv in (self.conv_h, self.conv_w, self.fuse):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if self.calm:
            nn.init.zeros_(self.fuse.weight)
            nn.init.zeros_(self.fuse.bias)  # type: ignore[arg-type]  # built with a bias

    def narrow(self, keep: Sequence[int]) -> None:
        for conv in (self.conv_h, self.conv_w, self.fuse):
            narrow_in(conv, keep)
            narrow_out(conv, keep)
        for bn in (self.bn_h, self.bn_w):
            narrow_each(bn, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.bn_h(self.conv_h(x.mean(3, keepdim=True)))
        columns = self.bn_w(self.conv_w(x.mean(2, keepdim=True)))
        return x * torch.sigmoid(self.fuse(self.act(rows + columns)))

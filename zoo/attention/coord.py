"""Coordinate attention: where a row and a column matter, for each channel.

    z = [mean_w(x), mean_h(x)]                   C x (H + W)
    f = act(BN(W1 z)), split into f_h, f_w       C/r x H, C/r x W
    y = x * sigmoid(W_h f_h) * sigmoid(W_w f_w)

Squeeze-and-excitation that keeps one coordinate at a time, so that long ranges and positions survive the pooling. The passes over x are
those of `zoo/layers/axes.py`.

Hou et al., Coordinate Attention for Efficient Mobile Network Design, arXiv 2103.02907, equations 4-9.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm, rd_channels
from ..layers.axes import pool_axes, scale_axes
from ..layers.narrow import narrow_in, narrow_out
from ..layers.pointwise import PointwiseConv2d

torch.fx.wrap("pool_axes")
torch.fx.wrap("scale_axes")


@ATTENTION.register("coord")
class CoordAttention(nn.Module):
    """Gate for rows and columns of each channel; use it where position matters and the network is small, as MobileNets are.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the bottleneck over C, rounded down, at least 8; the authors' 1/32 by default.
        act_layer: after the batch norm; the paper's h-swish by default.
        calm: start with both last layers at zero: the gates are one quarter together until training moves them.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 32,
        act_layer: LayerType = "hard_swish",
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        hidden = rd_channels(channels, rd_ratio, least=8)
        self.conv1 = PointwiseConv2d(channels, hidden, device=device, dtype=dtype)
        self.bn1 = BatchNorm(hidden, device=device, dtype=dtype)
        self.act = create_act_layer(act_layer)
        self.conv_h = PointwiseConv2d(hidden, channels, device=device, dtype=dtype)
        self.conv_w = PointwiseConv2d(hidden, channels, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.conv1, self.bn1, self.conv_h, self.conv_w):
            layer.reset_parameters()
        if self.calm:
            for layer in (self.conv_h, self.conv_w):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it is built with a bias

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.conv1, keep)
        narrow_out(self.conv_h, keep)
        narrow_out(self.conv_w, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height = x.shape[2]
        x, strips = pool_axes(x)  # [B, C, H + W, 1]
        strips = self.act(self.bn1(self.conv1(strips)))
        rows = torch.sigmoid(self.conv_h(strips[:, :, :height]))
        columns = torch.sigmoid(self.conv_w(strips[:, :, height:]))
        return scale_axes(x, rows, columns)

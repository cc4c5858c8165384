"""Convolutional Block Attention Module: a channel gate, then a spatial gate on its result.

    Mc(x) = sigmoid(MLP(mean_hw(x)) + MLP(max_hw(x)))            x' = x * Mc(x)
    Ms(x') = sigmoid(BN(conv7x7([max_c(x'), mean_c(x')])))       y = x' * Ms(x')

As the authors compute it: maximum before mean, biases in the MLP, batch norm in the spatial gate. The passes over x and the convolution of
two channels are those of `zoo/layers`: faster than plain operations on a CPU, and about half the memory in training
(docs/results/attention_speed.md).

Woo et al., CBAM: Convolutional Block Attention Module, arXiv 1807.06521, equations 2 and 3.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm, NarrowConv2d, pool_channels, pool_pixels, rd_channels, scale_both
from ..layers.narrow import narrow_in, narrow_out

torch.fx.wrap("pool_pixels")
torch.fx.wrap("pool_channels")
torch.fx.wrap("scale_both")


class ChannelGate(nn.Module):
    """Mean and maximum over the pixels, both [B, C] -> Mc, [B, C, 1, 1]."""

    def __init__(self, channels: int, hidden: int, act_layer: LayerType, bias: bool, device=None, dtype=None):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, bias=bias, device=device, dtype=dtype)
        self.act = create_act_layer(act_layer)
        self.fc2 = nn.Linear(hidden, channels, bias=bias, device=device, dtype=dtype)

    def forward(self, mean: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        gates = self.fc2(self.act(self.fc1(torch.stack([mean, top]))))
        return torch.sigmoid(gates.sum(0))[:, :, None, None]


class SpatialGate(nn.Module):
    """Maximum and mean over the channels, [B, 2, H, W] -> Ms, [B, 1, H, W]."""

    def __init__(self, kernel_size: int, device=None, dtype=None):
        super().__init__()
        self.conv = NarrowConv2d(2, kernel_size, device=device, dtype=dtype)
        self.bn = BatchNorm(1, momentum=0.01, device=device, dtype=dtype)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.bn(self.conv(pooled)))


@ATTENTION.register("cbam")
class CBAM(nn.Module):
    """Channel and spatial gate; use it where what matters sits in a part of the picture, and latency is not the first concern.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the MLP's bottleneck over C, rounded down; the paper's r = 16 by default.
        act_layer: inside the MLP; the paper's ReLU by default.
        kernel_size: of the spatial gate; odd, the paper's 7 by default.
        mlp_bias: biases in the MLP, as the authors have them.
        calm: start with the MLP's last layer and the batch norm's weight at zero: both gates are one half until training moves them.

    Raises:
        ValueError: an even kernel.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 16,
        act_layer: LayerType = "relu",
        kernel_size: int = 7,
        mlp_bias: bool = True,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"cbam kernel_size: expected an odd number such as 3 or 7, got {kernel_size}")
        self.channel = ChannelGate(channels, rd_channels(channels, rd_ratio), act_layer, mlp_bias, device=device, dtype=dtype)
        self.spatial = SpatialGate(kernel_size, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.channel.fc1, self.channel.fc2, self.spatial.conv, self.spatial.bn):
            layer.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.channel.fc2.weight)
            nn.init.zeros_(self.spatial.bn.weight)
            if self.channel.fc2.bias is not None:
                nn.init.zeros_(self.channel.fc2.bias)

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.channel.fc1, keep)
        narrow_out(self.channel.fc2, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, mean, top = pool_pixels(x)
        channel = self.channel(mean, top)
        x, pooled, product = pool_channels(x, channel)
        spatial = self.spatial(pooled)
        return scale_both(x, channel, spatial, product)

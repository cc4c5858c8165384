"""Bottleneck Attention Module: a channel branch and a spatial branch side by side, multiplied into one map for all of x.

    ca = W2 act(BN(W1 mean_hw(x) + b1)) + b2                                      [B, C, 1, 1]
    sa = conv1x1(act(BN(conv3x3(act(BN(conv3x3(act(BN(conv1x1(x)))))))))          [B, 1, H, W], in C/16 channels, dilation 4
    y = x (1 + sigmoid(ca * sa))

As the authors' code computes it: the branches are multiplied (the paper adds them), and neither ends in a batch norm.
Park et al., BAM: Bottleneck Attention Module, BMVC 2018, arXiv 1807.06514, equations 1-4.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm, rd_channels
from ..layers.narrow import narrow_in, narrow_out


class ChannelBranch(nn.Module):
    """[B, C, H, W] -> ca, [B, C, 1, 1]."""

    def __init__(self, channels: int, hidden: int, act_layer: LayerType, device=None, dtype=None):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1, device=device, dtype=dtype)
        self.bn = BatchNorm(hidden, device=device, dtype=dtype)
        self.act = create_act_layer(act_layer)
        self.fc2 = nn.Conv2d(hidden, channels, 1, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.bn(self.fc1(x.mean((2, 3), keepdim=True)))))


class SpatialBranch(nn.Module):
    """[B, C, H, W] -> sa, [B, 1, H, W]."""

    def __init__(self, channels: int, hidden: int, dilation: int, act_layer: LayerType, device=None, dtype=None):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 1, device=device, dtype=dtype)
        self.bn1 = BatchNorm(hidden, device=device, dtype=dtype)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation, device=device, dtype=dtype)
        self.bn2 = BatchNorm(hidden, device=device, dtype=dtype)
        self.conv3 = nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation, device=device, dtype=dtype)
        self.bn3 = BatchNorm(hidden, device=device, dtype=dtype)
        self.act = create_act_layer(act_layer)
        self.conv4 = nn.Conv2d(hidden, 1, 1, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)))
        x = self.act(self.bn3(self.conv3(x)))
        return self.conv4(x)


@ATTENTION.register("bam")
class BAM(nn.Module):
    """Channel and spatial gate that only amplifies (by 1 to 2); use it between stages, where a wide view is worth three batch norms.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of both bottlenecks over C, rounded down; the paper's r = 16 by default.
        act_layer: in both branches; the paper's ReLU by default.
        dilation: of the two 3x3 convolutions; the paper's 4 by default.
        calm: start with the channel branch's last layer at zero, so that the gate is constant (1.5) until training moves it.

    Raises:
        ValueError: a dilation below one.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 16,
        act_layer: LayerType = "relu",
        dilation: int = 4,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if dilation < 1:
            raise ValueError(f"bam dilation: expected 1 or more, got {dilation}")
        hidden = rd_channels(channels, rd_ratio)
        self.channel = ChannelBranch(channels, hidden, act_layer, device=device, dtype=dtype)
        self.spatial = SpatialBranch(channels, hidden, dilation, act_layer, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, BatchNorm)):
                layer.reset_parameters()
        if self.calm:
            for parameter in self.channel.fc2.parameters():
                nn.init.zeros_(parameter)

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.channel.fc1, keep)
        narrow_out(self.channel.fc2, keep)
        narrow_in(self.spatial.conv1, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + torch.sigmoid(self.channel(x) * self.spatial(x)))

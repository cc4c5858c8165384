"""Concurrent spatial and channel squeeze-and-excitation: two gates side by side on x, fused at the end.

    c = sigmoid(W2 act(W1 mean_hw(x) + b1) + b2)                 [B, C]
    s = sigmoid(w . x + b), a 1x1 convolution to one channel     [B, 1, H, W]
    y = max(x * c, x * s)    or, as in the paper,    y = x * c + x * s

The maximum is what the authors' code computes, and so the default.
Roy et al., Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks, MICCAI 2018, arXiv 1803.02579.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import rd_channels
from ..layers.narrow import narrow_in, narrow_out


@ATTENTION.register("scse")
class SCSE(nn.Module):
    """Channel and spatial gate in parallel; use it for dense prediction (it comes from segmentation), or as the cheapest spatial gate.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the channel gate's bottleneck over C, rounded down; the authors' r = 2 by default.
        act_layer: between its two layers; the paper's ReLU by default.
        fuse: "max" as in the authors' code, or "add" as in the paper.
        calm: start with W2, b2, w and b at zero, so that both gates are one half (y = x / 2, or x if added) until training moves them.

    Raises:
        ValueError: another `fuse`.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 2,
        act_layer: LayerType = "relu",
        fuse: str = "max",
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if fuse not in ("max", "add"):
            raise ValueError(f'scse fuse: expected "max" or "add", got {fuse!r}')
        hidden = rd_channels(channels, rd_ratio)
        self.fc1 = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.act = create_act_layer(act_layer)
        self.fc2 = nn.Linear(hidden, channels, device=device, dtype=dtype)
        self.conv = nn.Conv2d(channels, 1, 1, device=device, dtype=dtype)
        self.fuse = fuse
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.fc1, self.fc2, self.conv):
            layer.reset_parameters()
        if self.calm:
            for parameter in (*self.fc2.parameters(), *self.conv.parameters()):
                nn.init.zeros_(parameter)

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.fc1, keep)
        narrow_out(self.fc2, keep)
        narrow_in(self.conv, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channel = torch.sigmoid(self.fc2(self.act(self.fc1(x.mean((2, 3))))))[:, :, None, None]
        spatial = torch.sigmoid(self.conv(x))
        if self.fuse == "add":
            return x * (channel + spatial)
        return torch.maximum(x * channel, x * spatial)

"""Squeeze-and-Excitation: s = sigmoid(W2 act(W1 mean_hw(x) + b1) + b2), y = x * s.

The gate EfficientNet was designed with, and so the baseline. It is timm's own EfficientNet class, key for key, so that `effnet_se_b0` and
`efficientnet_b0` load the same files; timm offers another one under `se_layer="se"`, with other keys and widths.

Hu et al., Squeeze-and-Excitation Networks, arXiv 1709.01507, equations 2-4.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from registry import ATTENTION

from ..layers import mean_pixels, scale
from ..layers.narrow import narrow_in, narrow_out

torch.fx.wrap("mean_pixels")
torch.fx.wrap("scale")


@ATTENTION.register("se")
class SE(SqueezeExcite):
    """Channel gate from the channel means; use it as the baseline, or wherever a pretrained EfficientNet is kept whole.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the bottleneck over C, rounded; the paper's r = 16 by default.
        act_layer: between the two layers; the paper's ReLU by default.
        calm: start with W2 = 0, so that the gate is constant (one half) until training moves it.
    """

    attends = "channel"

    def __init__(
        self, channels: int, *, rd_ratio: float = 1 / 16, act_layer: LayerType = "relu", calm: bool = False, device=None, dtype=None
    ):
        super().__init__(channels, rd_channels=max(1, round(channels * rd_ratio)), act_layer=act_layer, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        self.conv_reduce.reset_parameters()
        self.conv_expand.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.conv_expand.weight)
            nn.init.zeros_(self.conv_expand.bias)  # type: ignore[arg-type]  # timm builds it with a bias

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.conv_reduce, keep)
        narrow_out(self.conv_expand, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, mean = mean_pixels(x)
        gate = self.conv_expand(self.act1(self.conv_reduce(mean)))
        return scale(x, self.gate(gate))

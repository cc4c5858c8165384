"""Efficient Multi-scale Attention: in each group of channels two branches, and each one's softmax weighs the other's channels.

    x1 = GN(x_g * sigmoid(conv1x1(mean_w(x_g))) * sigmoid(conv1x1(mean_h(x_g))))        x2 = conv3x3(x_g)
    m_g = sigmoid(sum_c softmax_c(mean_hw(x1)) * x2 + softmax_c(mean_hw(x2)) * x1)      y_g = x_g * m_g

One map a group, and all groups share the same small weights: a 3x3 convolution for the price of C/32 channels. The norm has a group
for each channel, so mean_hw(x1) is its bias: the weights of x2 are learnt constants, as published.

Ouyang et al., Efficient Multi-Scale Attention Module with Cross-Spatial Learning, ICASSP 2023, arXiv 2305.13563.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION


@ATTENTION.register("ema")
class EMA(nn.Module):
    """Spatial map for each group of channels; use it where neighbouring pixels should decide and parameters must stay few.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        groups: the paper's 32; at other widths the largest divisor of C that is not above it.
        calm: start with the norm's weight and the 3x3 convolution at zero, its biases adding up to zero: the gate is one half until
            training moves it.

    Raises:
        ValueError: no group at all.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        groups: int = 32,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if groups < 1:
            raise ValueError(f"ema groups: expected a positive number such as 32, got {groups}")
        self.groups = max(n for n in range(1, groups + 1) if channels % n == 0)
        self.width = self.channel_unit = channels // self.groups
        self.conv1x1 = nn.Conv2d(self.width, self.width, 1, device=device, dtype=dtype)
        self.conv3x3 = nn.Conv2d(self.width, self.width, 3, padding=1, device=device, dtype=dtype)
        self.norm = nn.GroupNorm(self.width, self.width, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.conv1x1, self.conv3x3, self.norm):
            layer.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.norm.weight)
            nn.init.zeros_(self.conv3x3.weight)
            with torch.no_grad():  # unlike biases: equal ones would keep the 3x3 filters equal for ever
                self.conv3x3.bias.sub_(self.conv3x3.bias.mean())  # type: ignore[union-attr]  # it is built with a bias

    def narrow(self, keep: Sequence[int]) -> None:
        self.groups = len(keep) // self.width  # which share their weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        xg = x.reshape(-1, self.width, h, w)  # [B * groups, C / groups, H, W]
        rows = torch.sigmoid(self.conv1x1(xg.mean(3, keepdim=True)))
        columns = torch.sigmoid(self.conv1x1(xg.mean(2, keepdim=True)))
        x1 = xg * rows * columns
        x1 = self.norm(x1 - x1.mean((2, 3), keepdim=True))  # centred first: the norm centres last, and rounds flat maps to noise
        x2 = self.conv3x3(xg)
        a1 = x1.mean((2, 3), keepdim=True).softmax(1)
        a2 = x2.mean((2, 3), keepdim=True).softmax(1)
        maps = torch.sigmoid((a1 * x2 + a2 * x1).sum(1)).reshape(b, self.groups, h, w)
        return x * maps.repeat_interleave(self.width, 1)

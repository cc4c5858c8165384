"""Efficient Channel Attention: s = sigmoid(conv1d_k(mean_hw(x))), y = x * s, the convolution running over the channels.

No bottleneck, k weights in all: each channel is gated by its k neighbours, where k grows with the logarithm of the width.

Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, arXiv 1910.03151, equations 9 and 12.
"""

import math
from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers import mean_pixels, scale

torch.fx.wrap("mean_pixels")
torch.fx.wrap("scale")


@ATTENTION.register("eca")
class ECA(nn.Module):
    """Channel gate with a handful of parameters; use it where every kilobyte counts, such as the lite variants.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        kernel_size: odd; None takes the paper's, |log2(C) / gamma + beta / gamma| made odd.
        gamma, beta: of that rule.
        calm: start with the convolution at zero, so that the gate is constant (one half) until training moves it.

    Raises:
        ValueError: an even kernel.
    """

    attends = "channel"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        kernel_size: int | None = None,
        gamma: float = 2.0,
        beta: float = 1.0,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if kernel_size is None:
            nearest = int(abs((math.log2(channels) + beta) / gamma))
            kernel_size = nearest if nearest % 2 else nearest + 1
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"eca kernel_size: expected an odd number such as 3 or 5, got {kernel_size}")
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        self.conv.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.conv.weight)

    def narrow(self, keep: Sequence[int]) -> None:
        """Nothing to do: the kernel stays as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, means = mean_pixels(x)
        gate = torch.sigmoid(self.conv(means.view(x.shape[0], 1, -1)))  # [B, 1, C]
        return scale(x, gate.view(x.shape[0], -1, 1, 1))

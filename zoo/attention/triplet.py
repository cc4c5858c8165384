"""Triplet Attention: three small spatial gates, one each for the planes C x W, H x C and H x W, and the mean of the three results.

    Z_d(x)   = [max_d(x), mean_d(x)]                      pooled over one dimension, an image of the two others
    gate_d   = sigmoid(BN(conv7x7(Z_d(x))))
    y        = x * (gate_h + gate_w + gate_c) / 3         gates of [B, C, 1, W], [B, C, H, 1] and [B, 1, H, W]

The authors turn the map over before and after each gate; the gates alone need turning, and x is multiplied once.

Misra et al., Rotate to Attend: Convolutional Triplet Attention Module, WACV 2021, arXiv 2010.03045.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm


class PlaneGate(nn.Module):
    """Maximum and mean of a plane, [B, 1, N, M] each -> its gate, [B, 1, N, M]."""

    def __init__(self, kernel_size: int, device=None, dtype=None):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)
        self.bn = BatchNorm(1, momentum=0.01, device=device, dtype=dtype)

    def forward(self, maximum: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.bn(self.conv(torch.cat([maximum, mean], 1))))


@ATTENTION.register("triplet")
class TripletAttention(nn.Module):
    """Gate over all three pairs of dimensions with 300 parameters; use it where CBAM would help and has too many.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out; the parameters do not depend on it.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        kernel_size: of all three convolutions; odd, the paper's 7 by default.
        calm: start with the batch norms' weights at zero, so that the gate is constant (one half) until training moves it.

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
        kernel_size: int = 7,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"triplet kernel_size: expected an odd number such as 3 or 7, got {kernel_size}")
        self.cw = PlaneGate(kernel_size, device=device, dtype=dtype)
        self.hc = PlaneGate(kernel_size, device=device, dtype=dtype)
        self.hw = PlaneGate(kernel_size, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for plane in (self.cw, self.hc, self.hw):
            plane.conv.reset_parameters()
            plane.bn.reset_parameters()
            if self.calm:
                nn.init.zeros_(plane.bn.weight)

    def narrow(self, keep: Sequence[int]) -> None:
        """Nothing to do: the kernels stay as they are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        over_h = x.amax(2, keepdim=True).transpose(1, 2), x.mean(2, keepdim=True).transpose(1, 2)  # [B, 1, C, W]
        over_w = x.amax(3, keepdim=True).transpose(1, 3), x.mean(3, keepdim=True).transpose(1, 3)  # [B, 1, H, C]
        cw = self.cw(over_h[0], over_h[1]).transpose(1, 2)  # [B, C, 1, W]
        hc = self.hc(over_w[0], over_w[1]).transpose(1, 3)  # [B, C, H, 1]
        hw = self.hw(x.amax(1, keepdim=True), x.mean(1, keepdim=True))  # [B, 1, H, W]
        return x * (cw / 3 + hc / 3 + hw / 3)  # divided while small

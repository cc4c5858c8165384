"""Normalization-based Attention Module: batch norm's own scale says how much a channel matters.

    z = BN(x) with scale gamma and shift beta, over whole maps      [B, C, H, W]
    w_c = |gamma_c| / sum_j |gamma_j|                               [C]
    y = x * sigmoid(w_c z_c)

No layer: a channel whose values vary much, as batch norm learns it, opens and closes more. This is the paper's channel gate; since z is a
whole map, its multiplier also differs from pixel to pixel.
Liu et al., NAM: Normalization-based Attention Module, NeurIPS 2021 workshop, arXiv 2111.12419.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm
from ..layers.narrow import narrow_each
from ..layers.precision import at_least_float32


@ATTENTION.register("nam")
class NAM(nn.Module):
    """Gate made of one batch norm, 2 C parameters; use it where a gate may have no layers of its own.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        calm: start with gamma = 0, so that the gate is constant (one half) until training moves it.
    """

    attends = "both"

    def __init__(self, channels: int, *, rd_ratio: float = 1.0, act_layer: LayerType = "relu", calm: bool = False, device=None, dtype=None):
        super().__init__()
        self.bn = BatchNorm(channels, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        self.bn.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.bn.weight)

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_each(self.bn, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = at_least_float32(self.bn.weight).abs() + 1e-12  # with every gamma at zero: equal weights, not 0 / 0
        weight = (scale / scale.sum()).to(x.dtype)
        return x * torch.sigmoid(weight[:, None, None] * self.bn(x))

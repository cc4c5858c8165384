"""Spatial Group-wise Enhance: each group of channels is gated by a map of how alike a pixel is to the group's mean.

    t = sum_c x_g * mean_hw(x_g)       t' = (t - mean_hw(t)) / (std_hw(t) + eps)       y_g = x_g * sigmoid(w_g t' + b_g)

No bottleneck, two numbers a group. The maps begin switched off (w = 0, b = 1), so it starts calm as published.

Li et al., Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks, arXiv 1905.09646.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers.narrow import narrow_parameter
from ..layers.pixels import degrees_of_freedom
from ..layers.precision import at_least_float32


@ATTENTION.register("sge")
class SGE(nn.Module):
    """Spatial map for each group of channels from 2 * groups numbers; use it where the place matters and parameters must not grow.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        groups: the paper's 64; at other widths the largest divisor of C that is not above it.
        calm: accepted for the contract; the paper's start is constant already (sigmoid(1) = 0.73).

    Raises:
        ValueError: no group at all.
    """

    attends = "spatial"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        groups: int = 64,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if groups < 1:
            raise ValueError(f"sge groups: expected a positive number such as 64, got {groups}")
        self.groups = max(n for n in range(1, groups + 1) if channels % n == 0)
        self.channel_unit = channels // self.groups
        self.weight = nn.Parameter(torch.empty(1, self.groups, 1, 1, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(1, self.groups, 1, 1, device=device, dtype=dtype))
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.ones_(self.bias)

    def no_weight_decay(self) -> set[str]:
        return {"weight", "bias"}

    def narrow(self, keep: Sequence[int]) -> None:
        groups = [channel // self.channel_unit for channel in keep[:: self.channel_unit]]
        for name in ("weight", "bias"):
            narrow_parameter(self, name, groups, 1)
        self.groups = len(groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        xg = at_least_float32(x).unflatten(1, (self.groups, -1))  # [B, G, C / G, H, W], a view in either memory format
        t = (xg * xg.mean((3, 4), keepdim=True)).sum(2)
        t = t - t.mean((2, 3), keepdim=True)
        # a norm, because the gradient of a root is infinite at zero, which is where a single pixel stands
        std = torch.linalg.vector_norm(t, dim=(2, 3), keepdim=True) / degrees_of_freedom(x) ** 0.5
        gate = torch.sigmoid(self.weight * t / (std + 1e-5) + self.bias).to(x.dtype)
        return (x.unflatten(1, (self.groups, -1)) * gate.unsqueeze(2)).flatten(1, 2)

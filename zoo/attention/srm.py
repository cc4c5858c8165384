"""Style-based Recalibration Module: s = sigmoid(BN(w_c1 mean_hw(x) + w_c2 std_hw(x))), y = x * s, each channel by itself.

Style is what a channel's mean and deviation tell; here the deviation gates along with the mean that others use alone. Four numbers a
channel, no bottleneck, and no channel sees another. The weights begin at zero, so it starts calm as published.

Lee et al., SRM: A Style-based Recalibration Module for Convolutional Neural Networks, ICCV 2019, arXiv 1903.10829.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm
from ..layers.narrow import narrow_each, narrow_parameter
from ..layers.pixels import degrees_of_freedom
from ..layers.precision import at_least_float32


@ATTENTION.register("srm")
class SRM(nn.Module):
    """Channel gate from mean and deviation; use it where contrast and texture tell classes apart, or `se` costs too many parameters.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        calm: accepted for the contract; the paper's start is constant already (one half).
    """

    attends = "channel"

    def __init__(self, channels: int, *, rd_ratio: float = 1.0, act_layer: LayerType = "relu", calm: bool = False, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 2, device=device, dtype=dtype))
        self.bn = BatchNorm(channels, device=device, dtype=dtype)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.zeros_(self.weight)
        self.bn.reset_parameters()

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_parameter(self, "weight", keep, 0)
        narrow_each(self.bn, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        var, mean = torch.var_mean(at_least_float32(x), (2, 3), correction=0)
        var = var * (1 + 1 / degrees_of_freedom(x))  # n / (n - 1), and zero for a single pixel
        style = torch.stack([mean, (var + 1e-5).sqrt()], 2).to(x.dtype)  # [B, C, 2]
        z = (style * self.weight).sum(2)
        return x * torch.sigmoid(self.bn(z[:, :, None, None])).to(x.dtype)

"""Multidimensional Collaborative Attention: one small gate along the channels, one along the rows, one along the columns, and their mean.

    s_d = (1/2 + sigmoid(a_d)) mean(x) + (1/2 + sigmoid(b_d)) std(x)      over all dimensions but d: [B, C], [B, H], [B, W]
    g_d = sigmoid(conv1d(s_d))                                            along d, without bias
    y   = x * (g_c + g_h + g_w) / 3

std is the unbiased one. Rows and columns have a kernel of 3; along the channels it grows with the logarithm of the width, as in ECA.

Yu et al., MCA: Multidimensional Collaborative Attention in Deep Convolutional Neural Networks for Image Recognition, EAAI 126, 2023.
"""

import math
from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers.precision import at_least_float32


@torch.fx.wrap  # a tracer sees no size to compare with
def _unbiased(count: int) -> float:
    """n / (n - 1); one value has no deviation, whatever it is multiplied by."""
    return count / max(count - 1, 1)


def pool(means: torch.Tensor, variances: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the whole from those of its equal parts, which stand along `dim`."""
    mean = means.mean(dim)
    return mean, variances.mean(dim) + (means - mean.unsqueeze(dim)).square().mean(dim)


class LineGate(nn.Module):
    """Mean and variance at every place of a line, [B, N] each, and of how many values -> its gate, [B, N]."""

    def __init__(self, kernel_size: int, device=None, dtype=None):
        super().__init__()
        self.mix = nn.Parameter(torch.empty(2, device=device, dtype=dtype))
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)

    def forward(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> torch.Tensor:
        std = (variance * _unbiased(count)).clamp(min=1e-12).sqrt()  # the root has no slope at zero
        share = torch.sigmoid(self.mix) + 0.5
        squeezed = (share[0] * mean + share[1] * std).to(self.conv.weight.dtype)
        return torch.sigmoid(self.conv(squeezed.unsqueeze(1))).squeeze(1)


@ATTENTION.register("mca")
class MCA(nn.Module):
    """Channel, row and column gate with some twenty parameters; use it where ECA's price is right and position matters too.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        kernel_size: along the channels, odd; None takes the paper's, |log2(C) - gamma| / lambd rounded, and one less if that is even.
        gamma, lambd: of that rule.
        spatial_kernel_size: along the rows and the columns; odd, the paper's 3 by default.
        calm: start with the convolutions at zero, so that the gate is constant (one half) until training moves it.

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
        kernel_size: int | None = None,
        gamma: float = 1.0,
        lambd: float = 1.5,
        spatial_kernel_size: int = 3,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if kernel_size is None:
            nearest = round(abs(math.log2(channels) - gamma) / lambd)
            kernel_size = max(1, nearest if nearest % 2 else nearest - 1)
        for name, size in (("kernel_size", kernel_size), ("spatial_kernel_size", spatial_kernel_size)):
            if size < 1 or size % 2 == 0:
                raise ValueError(f"mca {name}: expected an odd number such as 3 or 5, got {size}")
        self.channel = LineGate(kernel_size, device=device, dtype=dtype)
        self.height = LineGate(spatial_kernel_size, device=device, dtype=dtype)
        self.width = LineGate(spatial_kernel_size, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for line in (self.channel, self.height, self.width):
            nn.init.uniform_(line.mix)
            line.conv.reset_parameters()
            if self.calm:
                nn.init.zeros_(line.conv.weight)

    def narrow(self, keep: Sequence[int]) -> None:
        """Nothing to do: the kernels stay as they are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, c, h, w = x.shape
        xf = at_least_float32(x)
        row_means, column_means = xf.mean(3), xf.mean(2)  # [B, C, H], [B, C, W]
        row_variances = (xf - row_means.unsqueeze(3)).square().mean(3)
        column_variances = (xf - column_means.unsqueeze(2)).square().mean(2)
        mean, variance = pool(row_means, row_variances, 2)
        channel = self.channel(mean, variance, h * w)
        mean, variance = pool(row_means, row_variances, 1)
        height = self.height(mean, variance, c * w)
        mean, variance = pool(column_means, column_variances, 1)
        width = self.width(mean, variance, c * h)
        return x * (channel[:, :, None, None] / 3 + height[:, None, :, None] / 3 + width[:, None, None, :] / 3)  # divided while small

"""Spatial and Channel Synergistic Attention: gates along rows and columns, then self-attention between the channels of what is left.

    x' = x * sigmoid(GN4(D(mean_w(x)))) * sigmoid(GN4(D(mean_h(x))))        D: depthwise, 3, 5, 7, 9 wide, each on a quarter of the channels
    z = GN1(pool_7x7(x')),   q, k, v = w_q z, w_k z, w_v z                  a weight a channel each
    y = x' * sigmoid(mean_hw(softmax(q k^T / sqrt(C)) v))                   C x C weights, one head

Rows and columns share the convolutions, not the norms. The mean over the pixels is taken of v, before the product: the same, for less.
Si et al., SCSA: Exploring the Synergistic Effects Between Spatial and Channel Attention, arXiv 2407.05128.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers.narrow import narrow_each


@torch.fx.wrap  # the window depends on the shape, which a tracer must not fix
def _pool(x: torch.Tensor, window: int) -> torch.Tensor:
    return F.avg_pool2d(x, (min(window, x.shape[2]), min(window, x.shape[3])))


@ATTENTION.register("scsa")
class SCSA(nn.Module):
    """Row and column gates guide a channel gate; use it where position and channel both matter and CBAM's 7x7 map is too coarse.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out; a multiple of 4.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        heads: of the self-attention, the paper's one by default; if C is no multiple of it, the largest divisor of C below it. With more,
            each head's channels see only one another, and memory falls as many times.
        kernel_sizes: of the convolutions along rows and columns, one for each quarter of the channels; odd.
        window_size: of the average pooling before the self-attention, whose stride it is; a smaller map is averaged whole.
        calm: start with the weights of the two spatial norms and of v at zero: the three gates are one half, y = x / 8, until training
            moves them.

    Raises:
        ValueError: channels that four does not divide, not four odd kernels, no head, no window.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        heads: int = 1,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        window_size: int = 7,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if channels % 4:
            raise ValueError(f"scsa channels: expected a multiple of 4, got {channels}")
        if len(kernel_sizes) != 4 or any(k < 1 or k % 2 == 0 for k in kernel_sizes):
            raise ValueError(f"scsa kernel_sizes: expected four odd numbers such as 3, 5, 7 and 9, got {tuple(kernel_sizes)}")
        if heads < 1 or window_size < 1:
            raise ValueError(f"scsa heads, window_size: expected positive numbers such as 1 and 7, got {heads} and {window_size}")
        self.heads = max(n for n in range(1, heads + 1) if channels % n == 0)
        self.channel_parts = math.lcm(4, self.heads)
        self.scale = (channels // self.heads) ** -0.5
        self.window_size = window_size
        quarter = channels // 4
        self.convs = nn.ModuleList(
            nn.Conv1d(quarter, quarter, k, padding=k // 2, groups=quarter, device=device, dtype=dtype) for k in kernel_sizes
        )
        self.norm_h = nn.GroupNorm(4, channels, device=device, dtype=dtype)
        self.norm_w = nn.GroupNorm(4, channels, device=device, dtype=dtype)
        self.norm = nn.GroupNorm(1, channels, device=device, dtype=dtype)
        self.q = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device=device, dtype=dtype)
        self.k = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device=device, dtype=dtype)
        self.v = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (*self.convs, self.norm_h, self.norm_w, self.norm, self.q, self.k, self.v):
            layer.reset_parameters()
        if self.calm:
            for layer in (self.norm_h, self.norm_w, self.v):
                nn.init.zeros_(layer.weight)

    def along(self, strip: torch.Tensor) -> torch.Tensor:
        """[B, C, L] -> D(strip), [B, C, L]."""
        quarters = strip.chunk(4, 1)
        return torch.cat([conv(quarters[i]) for i, conv in enumerate(self.convs)], 1)

    def narrow(self, keep: Sequence[int]) -> None:
        quarter = len(keep) // 4
        for number, conv in enumerate(self.convs):
            narrow_each(conv, [each % (self.norm.num_channels // 4) for each in keep[number * quarter : (number + 1) * quarter]])
        for layer in (self.norm_h, self.norm_w, self.norm, self.q, self.k, self.v):
            narrow_each(layer, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.sigmoid(self.norm_h(self.along(x.mean(3)))).unsqueeze(3)
        columns = torch.sigmoid(self.norm_w(self.along(x.mean(2)))).unsqueeze(2)
        x = x * rows * columns
        z = self.norm(_pool(x, self.window_size))
        q = self.q(z).flatten(2).unflatten(1, (self.heads, -1))  # [B, heads, d, pixels]
        k = self.k(z).flatten(2).unflatten(1, (self.heads, -1))
        v = self.v(z).mean((2, 3)).unflatten(1, (self.heads, -1)).unsqueeze(3)  # [B, heads, d, 1]
        weights = (q * self.scale @ k.transpose(2, 3)).softmax(3)
        return x * torch.sigmoid(weights @ v).flatten(1)[:, :, None, None]

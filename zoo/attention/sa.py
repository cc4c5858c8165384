"""Shuffle Attention: in each group of channels one half gets a channel gate, the other a spatial gate; then the channels are shuffled.

    y0 = x0 * sigmoid(w1 mean_hw(x0) + b1)       y1 = x1 * sigmoid(w2 GN(x1) + b2)       y = shuffle([y0, y1])

Channel and spatial attention for a few dozen numbers, because all groups share them; the shuffle lets the groups' halves meet. The gates
begin constant (w = 0, b = 1), so it starts calm as published. The norm has a group for each channel: it normalises over the pixels alone.

Zhang and Yang, SA-Net: Shuffle Attention for Deep Convolutional Neural Networks, ICASSP 2021, arXiv 2102.00240.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers.precision import at_least_float32


@ATTENTION.register("sa")
class ShuffleAttention(nn.Module):
    """Channel gate for one half, spatial for the other, from 3 C / groups numbers; use it in networks that train from scratch.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out; even.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        groups: the paper's 64; at other widths the largest number not above it that splits C into pairs of halves.
        shuffle: False leaves the channels in their order, for the layers of a trained network that come after.
        calm: accepted for the contract; the paper's start is constant already (sigmoid(1) = 0.73), up to the shuffle.

    Raises:
        ValueError: no group at all, or an odd number of channels.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        groups: int = 64,
        shuffle: bool = True,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if groups < 1:
            raise ValueError(f"sa groups: expected a positive number such as 64, got {groups}")
        if channels % 2:
            raise ValueError(f"sa channels: expected an even number, which has halves, got {channels}")
        self.groups = max(n for n in range(1, groups + 1) if channels % (2 * n) == 0)
        self.channel_unit = channels // self.groups
        self.shuffle = shuffle
        half = (1, channels // (2 * self.groups), 1, 1)
        self.channel_weight = nn.Parameter(torch.empty(half, device=device, dtype=dtype))
        self.channel_bias = nn.Parameter(torch.empty(half, device=device, dtype=dtype))
        self.spatial_weight = nn.Parameter(torch.empty(half, device=device, dtype=dtype))
        self.spatial_bias = nn.Parameter(torch.empty(half, device=device, dtype=dtype))
        self.norm_weight = nn.Parameter(torch.empty(half, device=device, dtype=dtype))
        self.norm_bias = nn.Parameter(torch.empty(half, device=device, dtype=dtype))
        self.init_weights()

    def init_weights(self) -> None:
        for zero in (self.channel_weight, self.spatial_weight, self.norm_bias):
            nn.init.zeros_(zero)
        for one in (self.channel_bias, self.spatial_bias, self.norm_weight):
            nn.init.ones_(one)

    def no_weight_decay(self) -> set[str]:
        return {"channel_weight", "channel_bias", "spatial_weight", "spatial_bias", "norm_weight", "norm_bias"}

    def narrow(self, keep: Sequence[int]) -> None:
        self.groups = len(keep) // self.channel_unit  # which share their weights

    def channel_order(self, channels: int) -> list[int]:
        return [place // 2 + place % 2 * (channels // 2) for place in range(channels)] if self.shuffle else list(range(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = x.unflatten(1, (self.groups, 2, -1))  # [B, G, 2, C / 2G, H, W], a view in either memory format
        x0, x1 = halves[:, :, 0], halves[:, :, 1]
        channel = torch.sigmoid(self.channel_weight * x0.mean((3, 4), keepdim=True) + self.channel_bias)
        wide = at_least_float32(x1)
        var, mean = torch.var_mean(wide, (3, 4), correction=0, keepdim=True)
        normed = (wide - mean) * (var + 1e-5).rsqrt() * self.norm_weight + self.norm_bias
        spatial = torch.sigmoid(self.spatial_weight * normed + self.spatial_bias)
        y = torch.stack([x0 * channel.to(x.dtype), x1 * spatial.to(x.dtype)], 2).flatten(1, 3)
        pairs = y.unflatten(1, (2, -1)).transpose(1, 2) if self.shuffle else y.unflatten(1, (-1, 2))
        if torch.compiler.is_compiling():  # exporters know no memory formats
            return pairs.flatten(1, 2)
        return torch.empty_like(x).unflatten(1, (-1, 2)).copy_(pairs).flatten(1, 2)  # empty_like: in x's memory format

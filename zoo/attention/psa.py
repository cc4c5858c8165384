"""Polarized Self-Attention: a channel gate and a spatial gate, each of which collapses one direction completely and keeps the other wide.

    Mc(x) = sigmoid(W_up W_v sum_hw softmax_hw(w_q x) x)        Ms(x) = sigmoid(softmax_hw((W_q mean_hw(x)) . (W_v x)))
    parallel: y = x * Mc(x) + x * Ms(x)                         sequential: x' = x * Mc(x), y = x' * Ms(x')

As the authors compute it, the sequential form takes the spatial softmax of W_v x before the product, and its W_up is linear, layer norm,
ReLU, linear. Sums and means are taken before the matrices instead of after: the same, without maps of C/2 channels.

Liu et al., Polarized Self-Attention: Towards High-quality Pixel-wise Regression, arXiv 2107.00782.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import rd_channels
from ..layers.narrow import narrow_in, narrow_out
from ..layers.precision import at_least_float32


class ChannelGate(nn.Module):
    """[B, C, H, W] -> Mc, [B, C, 1, 1]."""

    def __init__(self, channels: int, inner: int, up: nn.Module, device=None, dtype=None):
        super().__init__()
        self.query = nn.Conv2d(channels, 1, 1, bias=False, device=device, dtype=dtype)
        self.value = nn.Conv2d(channels, inner, 1, bias=False, device=device, dtype=dtype)
        self.up = up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = at_least_float32(x).flatten(2)  # [B, C, H * W]
        weights = (at_least_float32(self.query.weight).flatten(1) @ pixels).softmax(2)
        context = (pixels @ weights.transpose(1, 2)).to(x.dtype).unsqueeze(3)  # [B, C, 1, 1]
        return torch.sigmoid(self.up(self.value(context)))


class SpatialGate(nn.Module):
    """[B, C, H, W] -> Ms, [B, 1, H, W]."""

    def __init__(self, channels: int, inner: int, softmax_first: bool, device=None, dtype=None):
        super().__init__()
        self.query = nn.Conv2d(channels, inner, 1, bias=False, device=device, dtype=dtype)
        self.value = nn.Conv2d(channels, inner, 1, bias=False, device=device, dtype=dtype)
        self.softmax_first = softmax_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, _, h, w = x.shape
        pixels = at_least_float32(x).flatten(2)
        query = F.linear(pixels.mean(2), at_least_float32(self.query.weight).flatten(1)).unsqueeze(1)  # [B, 1, C/2]
        value = at_least_float32(self.value.weight).flatten(1)
        if self.softmax_first:
            scores = query @ (value @ pixels).softmax(2)
        else:
            scores = ((query @ value) @ pixels).softmax(2)
        return torch.sigmoid(scores).to(x.dtype).unflatten(2, (h, w))


@ATTENTION.register("psa")
class PSA(nn.Module):
    """Channel and spatial gate of high resolution; use it where the place of things must come out exactly, as in keypoints or masks.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of queries and values over C, rounded down; the paper's half by default.
        act_layer: in the sequential form's W_up, the authors' ReLU by default; the parallel form has none.
        order: "parallel" (both gates of x, added) or "sequential" (the spatial gate of what the channel gate leaves).
        calm: start with the spatial query and the last layer of W_up at zero: the gates are constant until training moves them,
            y = x / 4 when sequential, x (1/2 + sigmoid(1 / (H W))) when parallel.

    Raises:
        ValueError: another order.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 2,
        act_layer: LayerType = "relu",
        order: str = "parallel",
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if order not in ("parallel", "sequential"):
            raise ValueError(f"psa order: expected 'parallel' or 'sequential', got {order!r}")
        inner = rd_channels(channels, rd_ratio)
        self.parallel = order == "parallel"
        up: nn.Module
        if self.parallel:
            up = nn.Conv2d(inner, channels, 1, bias=False, device=device, dtype=dtype)
        else:
            narrow = max(2, inner // 4)  # a layer norm of one value would be constant
            up = nn.Sequential(
                nn.Conv2d(inner, narrow, 1, device=device, dtype=dtype),
                nn.LayerNorm([narrow, 1, 1], device=device, dtype=dtype),
                create_act_layer(act_layer),
                nn.Conv2d(narrow, channels, 1, device=device, dtype=dtype),
            )
        self.channel = ChannelGate(channels, inner, up, device=device, dtype=dtype)
        self.spatial = SpatialGate(channels, inner, not self.parallel, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.channel.query, self.channel.value, self.spatial.query, self.spatial.value):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        ups = [layer for layer in self.channel.up.modules() if isinstance(layer, nn.Conv2d | nn.LayerNorm)]
        for each in ups:
            each.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.spatial.query.weight)
            for parameter in ups[-1].parameters():
                nn.init.zeros_(parameter)

    def narrow(self, keep: Sequence[int]) -> None:
        for layer in (self.channel.query, self.channel.value, self.spatial.query, self.spatial.value):
            narrow_in(layer, keep)
        narrow_out(self.channel.up[-1] if isinstance(self.channel.up, nn.Sequential) else self.channel.up, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.parallel:
            return x * (self.channel(x) + self.spatial(x))
        x = x * self.channel(x)
        return x * self.spatial(x)

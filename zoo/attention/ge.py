"""Gather-Excite: gather(x) sums a neighbourhood up, channel by channel; y = x * sigmoid(interpolate(gather(x))).

    theta-minus  gather = mean of the (2e - 1)^2 pixels around every e-th one, or of all pixels       (default, no parameters)
    theta        gather = log2(e) depthwise 3x3 convolutions of stride 2, each with batch norm        (params=True)
    theta-plus   a bottleneck of 1x1 convolutions after the gathering                                 (params=True, mlp=True)

The default is the parameter-free one of global extent, y = x * sigmoid(mean_hw(x)): the pair that took the paper's ResNet-50 past its
ResNet-101 for free, and what is left of squeeze-and-excitation when its two layers go. So it shows what those layers earn. It has no calm
start: nothing in it can be constant at first. So a calm gate, the one in the networks, is the theta with an extent of 8, which the paper
finds better and which learns at the first try on small pictures too.

Hu et al., Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks, NeurIPS 2018, arXiv 1810.12348.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm, rd_channels
from ..layers.narrow import narrow_each, narrow_in, narrow_out


def _gather(channels: int, extent: int, params: bool, act_layer: LayerType, device=None, dtype=None) -> nn.Module:
    """[B, C, H, W] -> [B, C, ceil(H / extent), ceil(W / extent)], or [B, C, 1, 1] where the extent is global."""
    if extent == 0:
        return nn.AdaptiveAvgPool2d(1)
    if not params:
        return nn.AvgPool2d(2 * extent - 1, stride=extent, padding=extent - 1, count_include_pad=False)
    layers: list[nn.Module] = []
    for _ in range(extent.bit_length() - 1):
        conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False, device=device, dtype=dtype)
        layers += [conv, BatchNorm(channels, device=device, dtype=dtype), create_act_layer(act_layer)]
    return nn.Sequential(*layers[:-1])  # the sigmoid follows the last


def _bottleneck(channels: int, hidden: int, act_layer: LayerType, device=None, dtype=None) -> nn.Module:
    fc1 = nn.Conv2d(channels, hidden, 1, device=device, dtype=dtype)
    fc2 = nn.Conv2d(hidden, channels, 1, device=device, dtype=dtype)
    return nn.Sequential(fc1, create_act_layer(act_layer), fc2)


@ATTENTION.register("ge")
class GatherExcite(nn.Module):
    """Channel gate from each channel's own mean; use it where no parameter may be added, or with an extent for larger pictures.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the bottleneck over C, rounded down; 1/16 by default.
        act_layer: between convolutions and in the bottleneck; the paper's ReLU by default.
        extent: a power of two such as 8, the side of the neighbourhood that shares a gate; 0 is the whole map, the default of a gate that
            is not calm.
        params: gather by convolutions instead of means; needs an extent. Calm gates that have one do by default.
        mlp: a bottleneck of 1x1 convolutions between gathering and gate.
        calm: start with the last learnt layer before the gate at zero, so that it is constant (one half); nothing to do without one.

    Raises:
        ValueError: an extent that is no power of two, or `params` with a global extent, which would fix the size of the map.
    """

    attends = "channel"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 16,
        act_layer: LayerType = "relu",
        extent: int | None = None,
        params: bool | None = None,
        mlp: bool = False,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if extent is None:
            extent = 8 if calm and params is not False else 0
        if params is None:
            params = calm and extent > 0
        if extent and (extent < 2 or extent & (extent - 1)):
            raise ValueError(f"ge extent: expected 0 (the whole map) or a power of two such as 8, got {extent}")
        if params and not extent:
            raise ValueError("ge params: expected an extent such as 8 with them, because a global convolution fixes the map's size, got 0")
        self.extent = extent
        self.gather = _gather(channels, extent, params, act_layer, device=device, dtype=dtype)
        hidden = rd_channels(channels, rd_ratio)
        self.mlp = _bottleneck(channels, hidden, act_layer, device=device, dtype=dtype) if mlp else nn.Identity()
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        learnt = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d | BatchNorm)]
        for layer in learnt:
            layer.reset_parameters()
        if self.calm and learnt:
            for parameter in learnt[-1].parameters():
                nn.init.zeros_(parameter)

    def narrow(self, keep: Sequence[int]) -> None:
        for layer in self.gather.children():
            if isinstance(layer, nn.Conv2d | BatchNorm):
                narrow_each(layer, keep)
        if isinstance(self.mlp, nn.Sequential):
            narrow_in(self.mlp[0], keep)
            narrow_out(self.mlp[2], keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.mlp(self.gather(x)))
        if self.extent:
            gate = F.interpolate(gate, size=x.shape[2:], mode="nearest")
        return x * gate

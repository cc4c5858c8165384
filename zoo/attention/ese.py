"""Effective Squeeze-and-Excitation: s = relu6(W mean_hw(x) + b + 3) / 6, y = x * s, with W of [C, C].

Squeeze-and-excitation without the bottleneck, which loses channel information: one full layer, and a sigmoid of straight lines. It is
timm's own class, key for key, so that a file of the one loads into the other.

Lee and Park, CenterMask: Real-Time Anchor-Free Instance Segmentation, arXiv 1911.06667 (VoVNetV2).
"""

from collections.abc import Sequence

from timm.layers import EffectiveSEModule, LayerType
from torch import nn

from registry import ATTENTION

from ..layers.narrow import narrow_in, narrow_out


@ATTENTION.register("ese")
class ESE(EffectiveSEModule):
    """Channel gate with one layer of C x C; use it where channels are few (early stages), or to save a layer's latency.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        calm: start with W = 0 and b = 0, so that the gate is constant (one half) until training moves it.
    """

    attends = "channel"

    def __init__(self, channels: int, *, rd_ratio: float = 1.0, act_layer: LayerType = "relu", calm: bool = False, device=None, dtype=None):
        super().__init__(channels, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        self.fc.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)  # type: ignore[arg-type]  # timm builds it with a bias

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.fc, keep)
        narrow_out(self.fc, keep)

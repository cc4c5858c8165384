"""Simple Coordinate Attention, timm's: one sigmoid over a row term and a column term, out of a shared bottleneck.

    h = Wh act(W1 mean_w(x) + b1) + bh      [B, C, H, 1]
    w = Ww act(W1 mean_h(x) + b1) + bw      [B, C, 1, W]
    y = x * sigmoid(h + w)

Coordinate attention without its batch norm, hence the gate to try where batches are small. timm's own class, key for key.

After Hou et al., Coordinate Attention for Efficient Mobile Network Design, arXiv 2103.02907; the simplification is timm's, without a paper.
"""

from collections.abc import Sequence

from timm.layers import LayerType, get_act_layer
from timm.layers.coord_attn import SimpleCoordAttn as TimmSimpleCoordAttn
from torch import nn

from registry import ATTENTION

from ..layers.narrow import narrow_in, narrow_out


@ATTENTION.register("scoord")
class SimpleCoordAttention(TimmSimpleCoordAttn):
    """Channel gate that knows rows and columns, no batch norm; use it where position matters and batches are small.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the bottleneck over C, times two thirds, rounded to a multiple of 8; timm's 1/4 by default.
        act_layer: in the bottleneck; timm's SiLU by default.
        calm: start with Wh, Ww and their biases at zero, so that the gate is constant (one half) until training moves it.
    """

    attends = "both"

    def __init__(
        self, channels: int, *, rd_ratio: float = 0.25, act_layer: LayerType = "silu", calm: bool = False, device=None, dtype=None
    ):
        super().__init__(channels, rd_ratio=rd_ratio, act_layer=get_act_layer(act_layer), device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.fc1, self.fc_h, self.fc_w):
            layer.reset_parameters()
        if self.calm:
            for layer in (self.fc_h, self.fc_w):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.fc1, keep)
        narrow_out(self.fc_h, keep)
        narrow_out(self.fc_w, keep)

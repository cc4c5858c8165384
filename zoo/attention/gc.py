"""Global context: one attention map for the whole picture pools it into a vector, which gates the channels.

    a = softmax_hw(w_k x + b_k)                       one map of H x W
    c = sum_hw a * x                                  [B, C]
    y = x * sigmoid(W2 act(LN(W1 c + b1)) + b2)       W1: C -> C/r, W2: C/r -> C

The authors found the attention maps of non-local networks to be nearly alike for every query, and kept one. This is their multiplicative
fusion; their default, the sum, is `gca`. The pooling and the product are those of `zoo/layers`.

Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, arXiv 1904.11492.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import rd_channels, scale
from ..layers.attend import attend
from ..layers.narrow import narrow_in, narrow_out

torch.fx.wrap("attend")
torch.fx.wrap("scale")


class Transform(nn.Module):
    """[B, C, 1, 1] -> the same: a bottleneck with a layer norm."""

    def __init__(self, channels: int, hidden: int, act_layer: LayerType, device=None, dtype=None):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1, device=device, dtype=dtype)
        self.norm = nn.LayerNorm([hidden, 1, 1], device=device, dtype=dtype)
        self.act = create_act_layer(act_layer)
        self.fc2 = nn.Conv2d(hidden, channels, 1, device=device, dtype=dtype)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.norm(self.fc1(context))))


@ATTENTION.register("gc")
class GlobalContext(nn.Module):
    """Channel gate from an attention-weighted mean; use it where what decides is small in the picture, so that a plain mean drowns it.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the bottleneck over C, rounded down; the authors' 1/16 by default.
        act_layer: after the layer norm; the paper's ReLU by default.
        calm: accepted for the contract; the authors' start, the last layer at zero, is already constant (one half).
    """

    attends = "channel"

    def __init__(
        self, channels: int, *, rd_ratio: float = 1 / 16, act_layer: LayerType = "relu", calm: bool = False, device=None, dtype=None
    ):
        super().__init__()
        self.mask = nn.Conv2d(channels, 1, 1, device=device, dtype=dtype)
        self.transform = Transform(channels, rd_channels(channels, rd_ratio), act_layer, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.kaiming_normal_(self.mask.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.mask.bias)  # type: ignore[arg-type]  # it is built with a bias
        for layer in (self.transform.fc1, self.transform.norm):
            layer.reset_parameters()
        for parameter in self.transform.fc2.parameters():
            nn.init.zeros_(parameter)

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.mask, keep)
        narrow_in(self.transform.fc1, keep)
        narrow_out(self.transform.fc2, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, context = attend(x, self.mask.weight, self.mask.bias)
        return scale(x, torch.sigmoid(self.transform(context)))

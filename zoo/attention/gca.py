"""Global Context, added: what the attended mean of the pixels says is added to every pixel.

    a = softmax_hw(W_k x)                            one weight a pixel
    z = sum_hw(a x)                                  C
    y = x + W_2 act(LN(W_1 z))

The authors' block with their default fusion, `channel_add`; with `channel_mul` it is `gc`. A simplified non-local block: every pixel asks
the same question, so it is asked once.

Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, arXiv 1904.11492, equation 7 and figure 4.
"""

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers import rd_channels
from .gc import Context


@ATTENTION.register("gca")
class GlobalContextAdd(nn.Module):
    """Adds a global context to every pixel; use it where the whole picture tells what a part of it is, or as a cheap `nl`.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the bottleneck over C, rounded down; the authors' 1/16 by default.
        act_layer: in the bottleneck; the paper's ReLU by default.
        calm: accepted for the contract; the authors' start is the identity already.
    """

    attends = "channel"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 16,
        act_layer: LayerType = "relu",
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.context = Context(channels, rd_channels(channels, rd_ratio), act_layer, owned=False, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        self.context.init_weights()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, context = self.context(x)
        return x + context

"""Global Context: squeeze-and-excitation whose squeeze is an attended mean.

    a = softmax_hw(W_k x)                            one weight a pixel
    z = sum_hw(a x)                                  C
    t = W_2 act(LN(W_1 z))                           C
    y = x * sigmoid(t)

The authors' block with its fusion `channel_mul`; with `channel_add`, their default, it is `gca`.

Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, arXiv 1904.11492, equation 7 and figure 4.
"""

import torch
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import rd_channels, scale
from ..layers.attend import attend_pixels

torch.fx.wrap("attend_pixels")
torch.fx.wrap("scale")


class Context(nn.Module):
    """[B, C, H, W] -> the map and what its attended mean says, t [B, C, 1, 1].

    Args:
        owned: the map goes into `scale` next, and nowhere else.
    """

    def __init__(self, channels: int, hidden: int, act_layer: LayerType, owned: bool, device=None, dtype=None):
        super().__init__()
        self.owned = owned
        self.mask = nn.Conv2d(channels, 1, 1, device=device, dtype=dtype)
        self.fc1 = nn.Conv2d(channels, hidden, 1, device=device, dtype=dtype)
        self.norm = nn.LayerNorm((hidden, 1, 1), device=device, dtype=dtype)
        self.act = create_act_layer(act_layer)
        self.fc2 = nn.Conv2d(hidden, channels, 1, device=device, dtype=dtype)

    def init_weights(self) -> None:
        for layer in (self.mask, self.fc1, self.norm, self.fc2):
            layer.reset_parameters()
        nn.init.kaiming_normal_(self.mask.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.mask.bias)  # type: ignore[arg-type]  # it is built with a bias
        nn.init.zeros_(self.fc2.weight)  # the authors start the last layer at zero: nothing says anything at first
        nn.init.zeros_(self.fc2.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, mean = attend_pixels(x, self.mask.weight, self.mask.bias, self.owned)
        return x, self.fc2(self.act(self.norm(self.fc1(mean))))


@ATTENTION.register("gc")
class GlobalContext(nn.Module):
    """Channel gate from an attended mean; use it where `se` works and what matters is a small part of the picture.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the bottleneck over C, rounded down; the authors' 1/16 by default.
        act_layer: in the bottleneck; the paper's ReLU by default.
        calm: accepted for the contract; the authors' start is constant already (one half).
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
        self.context = Context(channels, rd_channels(channels, rd_ratio), act_layer, owned=True, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        self.context.init_weights()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, context = self.context(x)
        return scale(x, torch.sigmoid(context))

"""Channel Prior Convolutional Attention: a channel gate first, then depthwise convolutions of many sizes make a weight for every value.

    u = GELU(P(x))                 v = u * (sigmoid(MLP(mean_hw(u))) + sigmoid(MLP(max_hw(u))))
    d = D5x5(v)                    a = P(d + sum_k Dkx1(D1xk(d))), k = 7, 11, 21                    y = P(v * a)

As the authors compute it: one 1x1 convolution P, the same weights in all three places, around the paper's two equations. Nothing bounds a,
so this is a block of its own rather than a gate of x; the authors add its input to its result, outside of it.

Huang et al., Channel prior convolutional attention for medical image segmentation, arXiv 2306.05196.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import rd_channels
from ..layers.narrow import narrow_each, narrow_in, narrow_out


class ChannelGate(nn.Module):
    """[B, C, H, W] -> the sum of two sigmoids, [B, C, 1, 1], between zero and two."""

    def __init__(self, channels: int, hidden: int, act_layer: LayerType, device=None, dtype=None):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.act = create_act_layer(act_layer)
        self.fc2 = nn.Linear(hidden, channels, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        average = torch.sigmoid(self.fc2(self.act(self.fc1(x.mean((2, 3))))))
        maximum = torch.sigmoid(self.fc2(self.act(self.fc1(x.amax((2, 3))))))
        return (average + maximum)[:, :, None, None]


def depthwise(channels: int, height: int, width: int, device=None, dtype=None) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, (height, width), padding=(height // 2, width // 2), groups=channels, device=device, dtype=dtype)


@ATTENTION.register("cpca")
class CPCA(nn.Module):
    """Channel gate and wide depthwise convolutions; use it in late stages where long thin shapes matter and its time can be paid for.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the MLP's bottleneck over C, rounded down; the authors' quarter by default.
        act_layer: inside the MLP; the authors' ReLU by default. The GELU before it stays.
        kernel_sizes: of the strips; odd, the paper's 7, 11 and 21 by default.
        calm: add the input, as the authors do around it, and start with the 5x5 convolution and all biases behind it at zero, so that y = x
            until training moves it. The keys are the same either way, the function is not.

    Raises:
        ValueError: an even kernel.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 4,
        act_layer: LayerType = "relu",
        kernel_sizes: Sequence[int] = (7, 11, 21),
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if any(k < 1 or k % 2 == 0 for k in kernel_sizes):
            raise ValueError(f"cpca kernel_sizes: expected odd numbers such as 7, 11 and 21, got {tuple(kernel_sizes)}")
        self.point = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)
        self.act = nn.GELU()
        self.channel = ChannelGate(channels, rd_channels(channels, rd_ratio), act_layer, device=device, dtype=dtype)
        self.local = depthwise(channels, 5, 5, device=device, dtype=dtype)
        self.strips = nn.ModuleList(
            nn.Sequential(
                depthwise(channels, 1, k, device=device, dtype=dtype),
                depthwise(channels, k, 1, device=device, dtype=dtype),
            )
            for k in kernel_sizes
        )
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
                if self.calm and isinstance(layer, nn.Conv2d):
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # they are built with one
        if self.calm:
            nn.init.zeros_(self.local.weight)

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.point, keep)
        narrow_out(self.point, keep)
        narrow_in(self.channel.fc1, keep)
        narrow_out(self.channel.fc2, keep)
        for layer in (self.local, *(layer for strip in self.strips for layer in strip)):  # type: ignore[attr-defined]  # sequentials
            narrow_each(layer, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = self.act(self.point(x))
        v = v * self.channel(v)
        d = self.local(v)
        total = d
        for strip in self.strips:
            total = total + strip(d)
        y = self.point(v * self.point(total))
        return x + y if self.calm else y

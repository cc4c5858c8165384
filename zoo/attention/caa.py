"""Context Anchor Attention: a smoothed picture, seen through a long row and then a long column, gates every pixel.

    a = act(BN(conv1x1(avgpool7x7(x))))
    y = x * sigmoid(act(BN(conv1x1(dw11x1(dw1x11(a))))))

As the authors' class has it by default. Their network builds it with `plain=True`, which is also the paper's formula: neither BN nor act,
biases in the 1x1 convolutions. With the activation, the gate never falls below 0.43 (SiLU) or one half (ReLU).

Cai et al., Poly Kernel Inception Network for Remote Sensing Detection, CVPR 2024, arXiv 2403.06258.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm
from ..layers.narrow import narrow_each, narrow_in, narrow_out


@ATTENTION.register("caa")
class CAA(nn.Module):
    """Pixel and channel gate that sees 17 pixels each way; use it for small things in large pictures, in stages that can pay for it.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: accepted for the contract; this gate has no bottleneck.
        act_layer: after both batch norms; the authors' SiLU by default.
        kernel_size: of the row and of the column; odd, the authors' 11 by default.
        plain: without batch norm and activation, as in the paper's formula and network.
        calm: start with the last norm's weight at zero (`plain`: the last convolution): the gate is constant until training moves it.

    Raises:
        ValueError: an even kernel.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "silu",
        kernel_size: int = 11,
        plain: bool = False,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"caa kernel_size: expected an odd number such as 7 or 11, got {kernel_size}")
        dd = {"device": device, "dtype": dtype}
        k, pad = kernel_size, kernel_size // 2
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=plain, **dd)
        self.bn1: BatchNorm | nn.Identity = nn.Identity() if plain else BatchNorm(channels, eps=1e-3, momentum=0.03, **dd)
        self.act1 = nn.Identity() if plain else create_act_layer(act_layer)
        self.conv_w = nn.Conv2d(channels, channels, (1, k), padding=(0, pad), groups=channels, **dd)
        self.conv_h = nn.Conv2d(channels, channels, (k, 1), padding=(pad, 0), groups=channels, **dd)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=plain, **dd)
        self.bn2: BatchNorm | nn.Identity = nn.Identity() if plain else BatchNorm(channels, eps=1e-3, momentum=0.03, **dd)
        self.act2 = nn.Identity() if plain else create_act_layer(act_layer)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for conv in (self.conv1, self.conv_w, self.conv_h, self.conv2):
            conv.reset_parameters()
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        for bn in (self.bn1, self.bn2):
            if not isinstance(bn, nn.Identity):
                bn.reset_parameters()
        if not self.calm:
            return
        if isinstance(self.bn2, nn.Identity):
            nn.init.zeros_(self.conv2.weight)
        else:
            nn.init.zeros_(self.bn2.weight)
            nn.init.ones_(self.bn2.bias)  # at zero, a ReLU would let no gradient through

    def narrow(self, keep: Sequence[int]) -> None:
        for point in (self.conv1, self.conv2):
            narrow_in(point, keep)
            narrow_out(point, keep)
        for layer in (self.bn1, self.conv_w, self.conv_h, self.bn2):
            if not isinstance(layer, nn.Identity):
                narrow_each(layer, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.act1(self.bn1(self.conv1(F.avg_pool2d(x, 7, stride=1, padding=3))))
        a = self.act2(self.bn2(self.conv2(self.conv_h(self.conv_w(a)))))
        return x * torch.sigmoid(a)

"""Light CBAM: a channel gate, then a spatial gate on its result, each from one picture, half mean and half maximum.

    p(x) = (mean_hw(x) + max_hw(x)) / 2     x' = x * sigmoid(W2 act(W1 p(x)))
    q(x') = (mean_c(x') + max_c(x')) / 2    y = x' * sigmoid(BN(conv7x7(q(x'))))

Where CBAM sends mean and maximum through its layers apart, this one averages them first: one run of the MLP, half of the spatial weights.
It is timm's own class, key for key; only the batch norm is one that survives a single value.

timm's variant (`LightCbamModule`) of Woo et al., CBAM: Convolutional Block Attention Module, arXiv 1807.06521.
"""

from collections.abc import Sequence

from timm.layers import LayerType, create_act_layer
from timm.layers.cbam import LightCbamModule
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm
from ..layers.narrow import narrow_in, narrow_out


@ATTENTION.register("lcbam")
class LCBAM(LightCbamModule):
    """Channel and spatial gate, lighter than `cbam`; use it where `cbam` helps but costs too much.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the MLP's bottleneck over C, rounded to the nearest; CBAM's r = 16 by default.
        act_layer: inside the MLP; ReLU by default.
        kernel_size: of the spatial gate; odd, 7 by default.
        mlp_bias: biases in the MLP; timm has none.
        calm: start with the MLP's last layer and the batch norm's weight at zero: both gates are one half until training moves them.

    Raises:
        ValueError: an even kernel.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 16,
        act_layer: LayerType = "relu",
        kernel_size: int = 7,
        mlp_bias: bool = False,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"lcbam kernel_size: expected an odd number such as 3 or 7, got {kernel_size}")
        super().__init__(channels, rd_ratio, spatial_kernel_size=kernel_size, mlp_bias=mlp_bias, device=device, dtype=dtype)
        self.channel.act = create_act_layer(act_layer)  # timm takes only classes with an `inplace`
        self.spatial.conv.bn = BatchNorm(1, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.channel.fc1, self.channel.fc2, self.spatial.conv.conv, self.spatial.conv.bn):
            layer.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.channel.fc2.weight)
            nn.init.zeros_(self.spatial.conv.bn.weight)
            if self.channel.fc2.bias is not None:
                nn.init.zeros_(self.channel.fc2.bias)

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.channel.fc1, keep)
        narrow_out(self.channel.fc2, keep)

"""Circular Efficient Channel Attention: s = sigmoid(conv1d_k(mean_hw(x))), y = x * s, the channels closed to a ring.

ECA pads its channels with zeros, so that those at either end have fewer neighbours than the rest, though channels have no ends. Here the
last is the neighbour of the first. It is timm's own class, key for key.

Chris Ha's variant in timm (`CecaModule`) of Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks,
arXiv 1910.03151, equations 9 and 12.
"""

from collections.abc import Sequence

from timm.layers import CecaModule, LayerType
from torch import nn

from registry import ATTENTION


@ATTENTION.register("ceca")
class CECA(CecaModule):
    """Channel gate with a handful of parameters and no edges; use it in place of `eca` where channels are few and many sit near an end.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        kernel_size: odd, at most `channels`; None takes the paper's, |log2(C) / gamma + beta / gamma| made odd, at least 3.
        gamma, beta: of that rule.
        calm: start with the convolution at zero, so that the gate is constant (one half) until training moves it.

    Raises:
        ValueError: an even kernel, or one that would go round the ring and meet a channel twice.
    """

    attends = "channel"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        kernel_size: int | None = None,
        gamma: float = 2.0,
        beta: float = 1.0,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        if kernel_size is None:
            super().__init__(channels, gamma=gamma, beta=beta, device=device, dtype=dtype)
        elif kernel_size % 2 == 0 or not 1 <= kernel_size <= channels:
            raise ValueError(f"ceca kernel_size: expected an odd number such as 3 or 5, at most {channels}, got {kernel_size}")
        else:
            super().__init__(kernel_size=kernel_size, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        self.conv.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.conv.weight)

    def narrow(self, keep: Sequence[int]) -> None:
        """Nothing to do: the kernel stays as it is."""

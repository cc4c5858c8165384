"""No gate: y = x. The control that every comparison needs; timm has no word for it (None, False and "" all mean squeeze-and-excitation)."""

from timm.layers import LayerType
from torch import nn

from registry import ATTENTION


@ATTENTION.register("none")
class NoAttention(nn.Identity):
    """[B, C, H, W] -> the same tensor. Takes a gate's arguments and ignores them."""

    attends = "nothing"

    def __init__(self, channels: int, *, rd_ratio: float = 1.0, act_layer: LayerType = "relu", calm: bool = False, device=None, dtype=None):
        super().__init__()

    def init_weights(self) -> None:
        """Nothing to initialise."""

"""Where a gate sits in timm's EfficientNet blocks, and how one is put there.

timm's inverted residual blocks have a place for squeeze-and-excitation after the depthwise convolution (after the expansion in fused
blocks), empty in the lite and EdgeTPU networks and in the fused stages of V2. The plain convolution blocks that open V2 have none: they
get one.
"""

# mypy: disable-error-code="operator, misc"
# (a module's attributes may be anything to mypy, and TorchScript, which reads the source of `forward`, accepts no remark to it there)
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from timm.layers import LayerType
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from torch import nn

from registry import ATTENTION

_SE_RATIO = 0.25  # EfficientNet's reduction, of the block's input width


class Slot(nn.Identity):
    """What timm is given as its `se_layer`: an empty place that remembers what the block would have asked for.

    It draws no random numbers, so that with one seed the trunk starts equal whatever gates follow.
    """

    def __init__(self, channels: int, rd_ratio: float = _SE_RATIO, act_layer: LayerType | None = None, device=None, dtype=None):
        super().__init__()
        self.rd_ratio = rd_ratio


class GatedConvBnAct(ConvBnAct):
    """timm's convolution block (a fused block without expansion) with a gate after its activation; made by `put_gate`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        x = self.se(self.aa(self.bn1(self.conv(x))))
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


def blocks(model: Any) -> Iterator[tuple[int, str, Any]]:
    """(stage, path, block) of every block that can hold a gate, in order; the stage is the 0-based index into `model.blocks`."""
    for stage, stack in enumerate(model.blocks):
        for index, block in enumerate(stack):
            if isinstance(block, (ConvBnAct, DepthwiseSeparableConv, InvertedResidual, EdgeResidual)):
                yield stage, f"blocks.{stage}.{index}", block


def _widths(block: Any) -> tuple[int, int]:
    """Channels of the gate and of the block's input."""
    if isinstance(block, ConvBnAct):
        return block.conv.out_channels, block.conv.in_channels
    if isinstance(block, DepthwiseSeparableConv):
        return block.conv_pw.in_channels, block.conv_dw.in_channels
    first = block.conv_exp if isinstance(block, EdgeResidual) else block.conv_pw
    return block.conv_pwl.in_channels, first.in_channels


def put_gate(block: Any, gate: type[nn.Module], options: Mapping[str, Any]) -> None:
    """Build the gate for this block and put it into its slot; EfficientNet's reduction and activation unless `options` say otherwise."""
    channels, entering = _widths(block)
    rd_ratio = block.se.rd_ratio if isinstance(getattr(block, "se", None), Slot) else _SE_RATIO * entering / channels
    weight = block.bn1.weight
    placed = gate(
        channels, **{"rd_ratio": rd_ratio, "act_layer": type(block.bn1.act), "device": weight.device, "dtype": weight.dtype, **options}
    )
    if type(block) is ConvBnAct:
        block.__class__ = GatedConvBnAct
    block.se = nn.Identity() if isinstance(placed, nn.Identity) else placed


def attention_slots(model: nn.Module) -> list[tuple[str, str, nn.Module]]:
    """(path, attention name, gate) of every gate of a registered kind inside `model`, in order."""
    names = {gate: name for name, gate in ATTENTION.loaded().items()}
    return [(path, names[type(module)], module) for path, module in model.named_modules() if type(module) in names]

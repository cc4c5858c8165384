"""Where a gate sits in a network, and how one is put there.

timm's inverted residual blocks have a place for squeeze-and-excitation after the depthwise convolution (after the expansion in fused
blocks), empty in the lite and EdgeTPU networks and in the fused stages of V2. The plain convolution blocks that open V2 have none: they
get one. Any other network has a slot where timm has put one of its gates.
"""

# mypy: disable-error-code="operator, misc"
# (a module's attributes may be anything to mypy, and TorchScript, which reads the source of `forward`, accepts no remark to it there)
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import LayerType
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from torch import nn

from .graft import HandOver
from .timm_gates import gate_name

_SE_RATIO = 0.25  # EfficientNet's reduction, of the block's input width
_BLOCKS = (ConvBnAct, DepthwiseSeparableConv, InvertedResidual, EdgeResidual)


class Slot(nn.Identity):
    """What timm is given as its `se_layer`: an empty place that remembers what the block would have asked for.

    It draws no random numbers, so that with one seed the trunk starts equal whatever gates follow.
    """

    def __init__(self, channels: int, rd_ratio: float = _SE_RATIO, act_layer: LayerType | None = None, device=None, dtype=None):
        super().__init__()
        self.rd_ratio = rd_ratio


class GatedConvBnAct(ConvBnAct):
    """timm's convolution block (a fused block without expansion) with a gate after its activation; made by `place`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        x = self.se(self.aa(self.bn1(self.conv(x))))
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


def blocks(model: Any) -> Iterator[tuple[int, str, Any]]:
    """(stage, path, block) of every EfficientNet block, in order; the stage is the 0-based index into `model.blocks`."""
    for stage, stack in enumerate(getattr(model, "blocks", ())):
        for index, block in enumerate(stack if isinstance(stack, nn.Sequential) else ()):
            if isinstance(block, _BLOCKS):
                yield stage, f"blocks.{stage}.{index}", block


def widths(block: Any) -> tuple[int, int]:
    """Channels of the gate and of the block's input."""
    if isinstance(block, ConvBnAct):
        return block.conv.out_channels, block.conv.in_channels
    if isinstance(block, DepthwiseSeparableConv):
        return block.conv_pw.in_channels, block.conv_dw.in_channels
    first = block.conv_exp if isinstance(block, EdgeResidual) else block.conv_pw
    return block.conv_pwl.in_channels, first.in_channels


def reader(model: nn.Module, path: str) -> nn.Conv2d | None:
    """The convolution that alone reads what the slot gives; None where there is none, as before a shortcut."""
    block: Any = model.get_submodule(path.rpartition(".")[0])
    if not isinstance(block, _BLOCKS) or path.rpartition(".")[2] != "se":
        return None
    behind = getattr(block, "conv_pw" if isinstance(block, DepthwiseSeparableConv) else "conv_pwl", None)
    return behind if isinstance(behind, nn.Conv2d) and behind.groups == 1 else None


def reduction(block: Any) -> float:
    """EfficientNet's reduction as a ratio of the gate's width, which is the expanded one."""
    channels, entering = widths(block)
    return block.se.rd_ratio if isinstance(getattr(block, "se", None), Slot) else _SE_RATIO * entering / channels


def place(model: nn.Module, path: str, gate: nn.Module) -> None:
    """Put a module into the slot; a plain convolution block becomes one that calls it."""
    parent: Any = model.get_submodule(path.rpartition(".")[0])
    if type(parent) is ConvBnAct:
        parent.__class__ = GatedConvBnAct
    setattr(parent, path.rpartition(".")[2], nn.Identity() if isinstance(gate, nn.Identity) else gate)


def put_gate(block: Any, gate: type[nn.Module], options: Mapping[str, Any]) -> None:
    """Build the gate for this block and put it into its slot; EfficientNet's reduction and activation unless `options` say otherwise."""
    weight = block.bn1.weight
    asked = {"rd_ratio": reduction(block), "act_layer": type(block.bn1.act), "device": weight.device, "dtype": weight.dtype}
    place(block, "se", gate(widths(block)[0], **{**asked, **options}))


def slots(model: nn.Module) -> dict[str, nn.Module | None]:
    """Path -> gate of every place in which a gate sits or may be put, in the order of the network; None where there is none yet."""
    found: dict[str, nn.Module | None] = {}
    empty = {f"{path}.se" for _, path, block in blocks(model) if isinstance(getattr(block, "se", None), (nn.Identity, type(None)))}
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path.startswith(inside):
            continue
        if f"{path}.se" in empty:
            found[f"{path}.se"] = None
        if isinstance(module, HandOver) or gate_name(module) not in (None, "none"):
            found[path] = module
            inside = (*inside, path + ".")  # what is inside a gate is its own affair
    return found


def stage(path: str) -> int | None:
    """0-based stage of a slot: the index into `model.blocks` or `model.stages`, or the number behind `layer` or `s` less one.

    None of one that stands in no stage, in a stem or before the head.
    """
    index = re.search(r"(?:^|[._])(?:blocks|stages|layers|features|levels)[._](\d+)", path)
    number = re.search(r"(?:^|\.)(?:layer|stage|s)(\d+)", path)
    return int(index[1]) if index else int(number[1]) - 1 if number else None


def attention_slots(model: nn.Module) -> list[tuple[str, str, nn.Module]]:
    """(path, attention name, gate) of every gate inside `model`, in order, timm's own included.

    While a gate is being handed over its name is "old>new".
    """
    return [(path, shown(gate), gate) for path, gate in slots(model).items() if gate is not None]


def shown(gate: nn.Module | None) -> str:
    """The name of what sits in a slot."""
    if isinstance(gate, HandOver):
        return f"{shown(gate.old)}>{shown(gate.new)}"
    return (gate_name(gate) if gate is not None else None) or "none"


def input_size(model: Any) -> tuple[int, int, int]:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    channels, *size = cfg.get("input_size") or (3, 224, 224)
    size = (getattr(model, "_traits", None) or {}).get("img_size") or size
    return getattr(model, "in_chans", None) or channels, *size


def maps(model: nn.Module, paths: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shape of the map that reaches each module, batch 1: seen in one pass without numbers (on the meta device), since no gate knows."""
    seen: dict[str, tuple[int, ...]] = {}

    def watch(module: nn.Module, args: tuple[torch.Tensor, ...], *, path: str) -> None:
        if args[0].ndim == 4:
            seen[path] = tuple(args[0].shape)

    gates = {path: model.get_submodule(path) for path in paths}
    handles = [gate.register_forward_pre_hook(functools.partial(watch, path=path)) for path, gate in gates.items()]
    x = torch.empty(1, *input_size(model), device="meta")
    state = {key: value.to("meta") for key, value in [*model.named_parameters(), *model.named_buffers()]}
    try:
        with torch.no_grad(), evaluating(model):
            torch.func.functional_call(model, state, (x.to(next(iter(state.values())).dtype),))
    finally:
        for handle in handles:
            handle.remove()
    return seen


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode, and afterwards every part in the mode in which it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode

"""The gates that timm's own networks come with: what they are called here, and how one is read.

timm builds a gate in some twenty-five of its files, from a handful of classes. Selective kernels, split attention, halo, lambda and
bottleneck attention stand in the place of a convolution, not behind one: they are no gates and are left alone.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import get_act_layer, get_attn
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.hgnet import EseModule
from timm.models.senet import SEModule as LegacySEModule
from torch import nn

from registry import ATTENTION

from ..layers.narrow import narrow_each, narrow_in, narrow_out

_BY_NAME = ("se", "ese", "eca", "ceca", "ge", "gc", "cbam", "lcbam", "coord", "scoord", "ela", "strip", "nl", "bat")
TIMM_GATES: dict[Any, str] = {
    **{get_attn(name): name for name in _BY_NAME},
    SqueezeExcite: "se",  # of EfficientNet and its kin
    LegacySEModule: "se",  # of senet.py
    EseModule: "ese",  # of hgnet.py
}
"""timm's class -> the name of the idea. The same name does not promise the same function: that is measured when it matters."""

_WIDTH: dict[Any, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    SqueezeExcite: (("conv_reduce",), ("conv_expand",), ()),
    LegacySEModule: (("fc1",), ("fc2",), ()),
    EseModule: (("conv",), ("conv",), ()),
    get_attn("se"): (("fc1",), ("fc2",), ()),
    get_attn("ese"): (("fc",), ("fc",), ()),
    get_attn("eca"): ((), (), ()),
    get_attn("ceca"): ((), (), ()),
    get_attn("gc"): (("conv_attn", "mlp_scale.fc1", "mlp_add.fc1"), ("mlp_scale.fc2", "mlp_add.fc2"), ()),
    get_attn("cbam"): (("channel.fc1",), ("channel.fc2",), ()),
    get_attn("lcbam"): (("channel.fc1",), ("channel.fc2",), ()),
    get_attn("coord"): (("conv1",), ("conv_h", "conv_w"), ()),
    get_attn("scoord"): (("fc1",), ("fc_h", "fc_w"), ()),
    get_attn("ela"): ((), (), ("conv_h", "conv_w", "norm_h", "norm_w")),
    get_attn("strip"): ((), (), ("conv_h", "conv_w")),
    get_attn("nl"): (("t", "p", "g"), ("z",), ("norm",)),
}
"""Of timm's gates: the layers that read the channels, that make them, and that work on each; those that there are."""

_BOTTLENECKS = ("conv_reduce", "fc1", "channel.fc1", "mlp_scale.fc1", "mlp_add.fc1", "conv1")  # whose output is the reduced width
_ACTIVATIONS = ("act1", "act", "relu", "channel.act", "mlp_scale.act", "mlp_add.act")
_ACT_NAMES = ("relu", "relu6", "silu", "hard_swish", "gelu", "mish", "elu", "prelu", "leaky_relu", "selu", "celu", "tanh", "sigmoid")
_RENAMED = {"fc1.": "conv_reduce.", "fc2.": "conv_expand."}  # of timm's squeeze-and-excitation classes


def gate_name(module: nn.Module) -> str | None:
    """What a gate is called: a registered name, or the name of what timm's class does; None for anything else."""
    for name, gate in ATTENTION.loaded().items():
        if type(module) is gate:
            return name
    return TIMM_GATES.get(type(module))


def can_narrow(gate: nn.Module) -> bool:
    """Whether `narrow_gate` knows how."""
    return hasattr(gate, "narrow") or type(gate) in _WIDTH


def narrow_gate(gate: Any, keep: Sequence[int]) -> None:
    """Make it a gate for these of its channels, in place: by its own `narrow`, or, of timm's gates, by what is known of them."""
    if hasattr(gate, "narrow"):
        gate.narrow(keep)
        return
    parts = dict(gate.named_modules())
    for paths, narrow in zip(_WIDTH[type(gate)], (narrow_in, narrow_out, narrow_each), strict=True):
        for path in paths:
            if not isinstance(parts.get(path), nn.Identity | None):
                narrow(parts[path], keep)


def _part(module: nn.Module, paths: tuple[str, ...]) -> Any:
    parts = dict(module.named_modules())
    return next((parts[path] for path in paths if path in parts), None)


def bottleneck(module: nn.Module) -> int | None:
    """The reduced width inside a gate."""
    layer = _part(module, _BOTTLENECKS)
    return getattr(layer, "out_features", getattr(layer, "out_channels", None))


def act_name(layer: nn.Module | None) -> str | None:
    """timm's name of an activation."""
    return next((name for name in _ACT_NAMES if layer is not None and type(layer) is get_act_layer(name)), None)


def activation(module: nn.Module) -> str | None:
    """timm's name of the activation inside a gate."""
    return act_name(_part(module, _ACTIVATIONS))


def _translated(old: nn.Module, new: nn.Module) -> dict[str, torch.Tensor] | None:
    """What `old` holds, under the names and shapes of `new`."""
    state, wanted = dict(old.state_dict()), new.state_dict()
    if state.keys() != wanted.keys():
        state = {next((b + key[len(a) :] for a, b in _RENAMED.items() if key.startswith(a)), key): value for key, value in state.items()}
    if state.keys() != wanted.keys() or any(state[key].numel() != wanted[key].numel() for key in wanted):
        return None
    return {key: value.reshape(wanted[key].shape) for key, value in state.items()}


def _on_cpu(gate: nn.Module) -> nn.Module:
    """A copy. Of a gate without numbers it holds any; of another one it keeps those that no state dict holds."""
    gate = copy.deepcopy(gate)
    return gate.to_empty(device="cpu") if any(value.is_meta for value in gate.state_dict().values()) else gate.to("cpu")


@torch.no_grad()
def same_function(old: nn.Module, new: nn.Module, channels: int) -> bool:
    """Whether `new` can hold whatever `old` may learn: tried with random weights on random maps (a hard and a soft sigmoid agree at 0)."""
    if any(value.is_meta for gate in (old, new) for key, value in gate.named_buffers() if key not in gate.state_dict()):
        return False  # a constant of the gate, and nobody knows which
    old, new = (_on_cpu(gate).float().eval() for gate in (old, new))
    draw = torch.Generator().manual_seed(0)
    for key, value in old.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=draw) if key.endswith("running_var") else value.normal_(generator=draw)
    state = _translated(old, new)
    if state is None:
        return False
    new.load_state_dict(state)
    x = torch.empty(2, channels, 9, 7).normal_(generator=draw)
    return torch.allclose(new(x), old(x), rtol=1e-5, atol=1e-5)


def move(old: nn.Module, new: nn.Module, channels: int) -> bool:
    """Give `new` what `old` has learned, if it can hold that function. Tells whether it did."""
    state = _translated(old, new)
    if state is None or not same_function(old, new, channels):
        return False
    new.load_state_dict(state)
    return True

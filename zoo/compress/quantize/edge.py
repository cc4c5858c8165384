"""The edge variant of a network: ReLU6 for its smooth activations, and no gates; the same weights, for a fine-tuning to start from.

Both are what int8 loses its time in. ReLU6 is fused into the layer before it and has a known range. Of the cheap gates, `none` is taken:
even ECA's one small convolution needs a mean, a sigmoid and a product over the whole map, each a way to float and back. What the gates knew
is learned from the network that has them (distillation), while they hand over.
"""

import copy
from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from ...backbones import swap_attention
from ...backbones.slots import slots

_SMOOTH = (nn.SiLU, nn.Hardswish, nn.GELU, nn.Mish)
_ACT = "relu6"


def _with_act(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a network with another activation: those of the innermost base, of one that was swapped or pruned."""
    if "base" in args:
        return {**args, "base_args": _with_act(args.get("base_args") or {})}
    return {**args, "act_layer": _ACT}


def is_smooth(network: nn.Module) -> bool:
    """Whether it has activations that int8 does not like; timm's own classes stand for torch's in some networks."""
    return any(isinstance(part, _SMOOTH) or type(part).__name__ in ("Swish", "HardSwish", "HardSwishMe") for part in network.modules())


def to_edge(network: Any) -> nn.Module:
    """A new network with ReLU6 and without gates, its weights those of the given one; saved, it comes back as any timm network.

    The gates hand over while `zoo.fit` trains.

    Raises:
        ValueError: there is nothing to replace, or the network cannot be built with another activation.
    """
    cfg = getattr(network, "pretrained_cfg", None) or {}
    name = cfg.get("architecture")
    gates = [path for path, gate in slots(network).items() if gate is not None]
    if not name:
        raise ValueError(f"edge: expected a network from timm.create_model, got {type(network).__name__}")
    if not gates and not is_smooth(network):
        raise ValueError(f"edge: {name} has no gates and no smooth activations: it is such a network already; leave --edge out")
    args = dict(getattr(network, "_model_args", {}))
    tag = cfg.get("tag")
    named = f"{name}.{tag}" if tag and timm.is_model_pretrained(f"{name}.{tag}") else name
    given = {**_with_act(args), "num_classes": network.num_classes}
    try:
        new: Any = timm.create_model(named, pretrained=False, **given)
    except TypeError as error:
        raise ValueError(f"edge: {name} cannot be built with another activation: {error}") from error
    new.load_state_dict(network.state_dict())
    new.pretrained_cfg = new.default_cfg = copy.deepcopy(network.pretrained_cfg)
    if gates:
        swap_attention(new, "none", keep="graft")
    return new

"""How a pruned network is written down, and the timm name under which it comes back.

What was cut stands in the network as JSON (`model._model_args`, timm's own record): the base's name and arguments, and the width that is
left wherever one was cut. So `timm.create_model("local-dir:...")` builds the base, cuts the same widths, of whatever channels, and only
then loads the weights, strictly. Pruning cuts with the same function, so that what is saved is what comes back.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import timm
from timm.models import register_model
from torch import nn

from ..layers.narrow import narrow_each, narrow_in, narrow_out
from .swapped import build_saved, origin, record
from .timm_gates import gate_name, narrow_gate

_ENTRY = "pruned"


@dataclass(frozen=True)
class Width:
    """A width inside a block: the layer that makes its channels, and all that know of them. Paths in the network.

    Args:
        maker: the convolution or linear layer.
        each: what works on channel by channel: norms, depthwise convolutions, gates.
        readers: convolutions or linear layers that read them.
    """

    maker: str
    each: tuple[str, ...]
    readers: tuple[str, ...]

    def channels(self, model: nn.Module) -> int:
        layer: Any = model.get_submodule(self.maker)
        return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels

    def gates(self, model: nn.Module) -> list[Any]:
        return [layer for path in self.each if gate_name(layer := model.get_submodule(path)) is not None]

    def rule(self, model: nn.Module) -> tuple[int, int]:
        """What the gates ask of the channels that are kept: as many in each of so many parts, in runs of so many."""
        gates = self.gates(model)
        return math.lcm(1, *(getattr(gate, "channel_parts", 1) for gate in gates)), math.lcm(
            1, *(getattr(gate, "channel_unit", 1) for gate in gates)
        )


def _order(gates: Sequence[Any], channels: int) -> list[int]:
    """The input channel at each place of what the gates give."""
    order = list(range(channels))
    for gate in gates:
        if hasattr(gate, "channel_order"):
            order = [order[channel] for channel in gate.channel_order(channels)]
    return order


def cut(model: nn.Module, width: Width, keep: Sequence[int]) -> None:
    """Keep these channels of a width, in place; `keep` ascends and obeys the width's rule."""
    gates = width.gates(model)
    places = {channel: place for place, channel in enumerate(_order(gates, width.channels(model)))}
    narrow_out(model.get_submodule(width.maker), keep)
    for path in width.each:
        layer = model.get_submodule(path)
        if gate_name(layer) is None:
            narrow_each(layer, keep)
        else:
            narrow_gate(layer, keep)
    read = [places[keep[channel]] for channel in _order(gates, len(keep))]
    for path in width.readers:
        narrow_in(model.get_submodule(path), read)


def cut_to(model: nn.Module, width: Width, count: int) -> None:
    """Keep that many channels of a width, the first ones that its rule allows: for the shapes alone."""
    parts, _ = width.rule(model)
    size, left = width.channels(model) // parts, count // parts
    cut(model, width, [part * size + channel for part in range(parts) for channel in range(left)])


def record_cuts(model: Any, cuts: Mapping[Width, int]) -> None:
    """Write down what was cut, together with what had been cut before."""
    name, args = origin(model, _ENTRY, "widths")
    described = {width.maker: {"channels": count, **asdict(width)} for width, count in cuts.items()}
    for each in described.values():
        del each["maker"]
        each |= {key: list(each[key]) for key in ("each", "readers")}
    record(model, name, args, {**args.get("widths", {}), **described}, _ENTRY, "widths")


def _pruned(base: str, base_args: Mapping[str, Any], widths: Mapping[str, Any], **kwargs: Any) -> nn.Module:
    model = timm.create_model(base, **{**base_args, **kwargs})
    for maker, each in widths.items():
        width = Width(maker, tuple(each["each"]), tuple(each["readers"]))
        try:
            cut_to(model, width, each["channels"])
        except (AttributeError, IndexError) as error:
            raise RuntimeError(f"{base} cannot be cut at {maker} to {each['channels']} channels: {error}") from error
    return model


def pruned(
    pretrained: bool = False,
    *,
    base: str | None = None,
    base_args: Mapping[str, Any] | None = None,
    widths: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A network with narrower blocks, as it is saved: timm's `base` with some widths cut.

    Args:
        pretrained: load the weights that the directory or the hub holds.
        base, base_args: the network that was pruned; it may be a swapped one.
        widths: path of the layer that makes the channels -> {"channels", "each", "readers"}.

    Raises:
        ValueError: called by hand, without a base.
        RuntimeError: the base has no such layer, or the weights are of another network.
    """
    if base is None or not widths:
        raise ValueError(f"{_ENTRY} is the name under which a pruned network is saved; make one with zoo.prune(model, macs=0.5)")
    return build_saved(_ENTRY, functools.partial(_pruned, base, dict(base_args or {}), widths), base, base_args, pretrained, **kwargs)


default_cfgs: dict[str, Any] = {}
__all__: list[str] = []
register_model(pruned)

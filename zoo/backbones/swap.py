"""Another attention in a network that has learned something, in place."""

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from registry import ATTENTION, nearest

from .graft import HandOver
from .slots import blocks, evaluating, maps, place, reader, reduction, shown, slots, stage, widths
from .swapped import build, hand_over, origin, record
from .timm_gates import act_name, activation, bottleneck, move

KEEP = ("graft", "fresh")


@dataclass(frozen=True)
class Change:
    """What happened in one slot.

    Args:
        slot: its path.
        old, new: names of the gates.
        before, after: parameters of the old and the new gate.
        how: "fresh" (starts anew), "moved" (the weights were moved over: the same function), "handed over" (takes over while training),
            or, of `finish_swap`, "complete" or "cut short at 40 %".
    """

    slot: str
    old: str
    new: str
    before: int
    after: int
    how: str


@dataclass(frozen=True)
class SwapReport(Sequence[Change]):
    """The changes, in order; prints as a table.

    Args:
        changes: one a slot.
        note: a line below the table.
        difference: of `finish_swap` with an example: the largest change of an output, and the largest output before.
    """

    changes: tuple[Change, ...]
    note: str = ""
    difference: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.changes)

    def __getitem__(self, index: Any) -> Any:
        return self.changes[index]

    def __str__(self) -> str:
        head = ("slot", "old", "new", "parameters", "how")
        rows = [(c.slot, c.old, c.new, f"{c.before:,} -> {c.after:,}", c.how) for c in self.changes]
        before, after = (sum(getattr(c, side) for c in self.changes) for side in ("before", "after"))
        rows.append((f"{len(self.changes)} slots", "", "", f"{before:,} -> {after:,}", ""))
        width = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, width, strict=True)).rstrip() for row in (head, *rows)]
        return "\n".join([lines[0], "  ".join("-" * size for size in width), *lines[1:], *([self.note] if self.note else [])])


# ---- which slots


def _chosen(model: nn.Module, wanted: Any, where: Any) -> dict[str, nn.Module | None]:
    """The slots meant by `stages` and `where`; without either, all gates, or, in a network that has none, all places for one."""
    every = slots(model)
    name = type(model).__name__
    if not every:
        raise ValueError(
            f"{name} has no attention gate and no EfficientNet block, so there is nothing to swap; a gate can be swapped in any timm model "
            "that has one (seresnet50, regnety_004, mobilenetv3_large_100, ...) and put into any EfficientNet (efficientnet_lite0, ...)"
        )
    chosen = dict(every)
    if wanted is None and where is None:
        chosen = {path: gate for path, gate in every.items() if gate is not None} or chosen
    if wanted is not None:
        numbers = [wanted] if isinstance(wanted, int) else list(wanted)
        there = sorted({number for path in every if (number := stage(path)) is not None})
        if not numbers:
            raise ValueError("stages: expected one or more, got none; leave it out for all")
        if beyond := [number for number in numbers if number not in there]:
            raise ValueError(f"stages: {name} has slots in stages {', '.join(map(str, there))}, got {', '.join(map(str, beyond))}")
        chosen = {path: gate for path, gate in chosen.items() if stage(path) in numbers}
    if where is not None:
        patterns = [where] if isinstance(where, str) else where
        matches: Callable[[str], bool] = (
            patterns if callable(patterns) else lambda path: any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
        )
        found = {path: gate for path, gate in chosen.items() if matches(path)}
        if not found:
            offer = nearest(where, list(chosen)) if isinstance(where, str) else f"they are {', '.join(list(chosen)[:5])}, ..."
            raise ValueError(f"where={where!r} matches none of the {len(chosen)} slots of {name}; {offer}")
        chosen = found
    return chosen


# ---- what goes into them


def _defaults(model: nn.Module, path: str, old: nn.Module | None, channels: int) -> dict[str, Any]:
    """Reduction and activation for the new gate, as JSON: the old gate's, else EfficientNet's of that block, else the paper's."""
    parent: Any = next((block for _, block_path, block in blocks(model) if f"{block_path}.se" == path), None)
    options: dict[str, Any] = {}
    gate = old.new if isinstance(old, HandOver) else old
    width, act = (bottleneck(gate), activation(gate)) if gate is not None else (None, None)
    if width is not None and width < channels:
        options["rd_ratio"] = width / channels
    elif parent is not None:
        options["rd_ratio"] = reduction(parent)
    if act is None and parent is not None:
        act = act_name(parent.bn1.act)
    return {**options, **({"act_layer": act} if act else {})}


def _parameters(gate: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in gate.parameters()) if gate is not None else 0


def swap_attention(
    model: nn.Module,
    to: str,
    *,
    stages: int | Sequence[int] | None = None,
    where: str | Sequence[str] | Callable[[str], bool] | None = None,
    keep: str = "graft",
    attn_kwargs: Mapping[str, Any] | None = None,
) -> SwapReport:
    """Put another attention into a network, in place; what was learned stays.

    Any timm network that has a gate, and any EfficientNet block without one. Without `stages` and `where`: every gate there is, or every
    block in an EfficientNet that has none. With them: every slot that they name, empty ones included.

    Args:
        model: the network; saved by `save_model`, it comes back with the new gates.
        to: a name in `registry.ATTENTION`.
        stages: 0-based stages: of an EfficientNet the index into `model.blocks`.
        where: paths of slots, as a pattern ("blocks.[56].*"), several, or a function of the path.
        keep: "graft" keeps the function of the network. Where the new gate can hold the old one's function, the weights are moved over;
            elsewhere the old gate stays, and the new one takes over while `zoo.fit` trains, or as `set_share` says; `finish_swap` then
            leaves the new one alone. "fresh" puts a new gate in at once.
        attn_kwargs: options of the new gate; by default the reduction and the activation are those of the old one.

    Returns:
        What changed in each slot; prints as a table.

    Raises:
        KeyError: no such attention; the nearest names are offered.
        TypeError: an option that the gate does not have.
        ValueError: nothing can be swapped, and why.
    """
    if keep not in KEEP:
        raise ValueError(f"keep: expected {' or '.join(KEEP)}, got {keep!r}")
    ATTENTION[to]
    try:
        own = json.loads(json.dumps(dict(attn_kwargs or {})))  # as it will be read from the file
    except TypeError as error:
        raise ValueError(
            f"attn_kwargs: expected what JSON can hold, such as {{'act_layer': 'relu'}}, so that it can be saved: {error}"
        ) from None
    chosen = _chosen(model, stages, where)
    if to == "none":
        chosen = {path: gate for path, gate in chosen.items() if gate is not None}
        if gained := [path for path in chosen if hasattr(model.get_submodule(path.rpartition(".")[0]), "attn_gain")]:
            raise ValueError(f"{type(model).__name__} multiplies what its gates give by a gain: {gained[0]} cannot go without one")
    if not chosen:
        raise ValueError(f"{type(model).__name__} has no gate there to take out")
    name, args = origin(model)
    described: dict[str, Any] = dict(args.get("slots", {}))
    seen = maps(model, [path for path, gate in chosen.items() if gate is not None])
    plain = {f"{path}.se": block for _, path, block in blocks(model)}
    built: list[tuple[str, nn.Module | None, nn.Module, dict[str, Any], str]] = []
    for path, old in chosen.items():
        channels = seen[path][1] if path in seen else widths(plain[path])[0] if path in plain else None
        if channels is None:
            raise ValueError(f"{type(model).__name__}: {path} never saw a [B, C, H, W] map, so it cannot be given another gate")
        asked = {**_defaults(model, path, old, channels), "calm": True, **own}
        description: dict[str, Any] = {"attention": to, "channels": channels, "options": asked}
        new = build(description, model)
        how = "fresh"
        if keep == "graft":
            how = "moved" if old is not None and move(old, new, channels) else "handed over"
        built.append((path, old, new, description, how))
    changes = []
    for path, old, new, description, how in built:  # only now, when nothing can fail any more
        if how == "handed over":
            description["from"] = described.get(path)
            new = hand_over(model, path, old, new, description["channels"])
        place(model, path, new)
        described[path] = description
        gate = new.new if isinstance(new, HandOver) else new
        changes.append(Change(path, shown(old), to, _parameters(old), _parameters(gate), how))
    record(model, name, args, described)
    over = sum(change.how == "handed over" for change in changes)
    note = f"{over} gates take over while zoo.fit trains; zoo.finish_swap(model) then drops the old ones" if over else ""
    return SwapReport(tuple(changes), note)


@torch.no_grad()
def finish_swap(model: nn.Module, example: torch.Tensor | None = None) -> SwapReport:
    """Drop the old gates of a grafted network: what is left is the network with the new gates alone.

    How loud the new gate had to be made to match the old one goes into the weights of the convolution behind it.

    Args:
        model: a network after `swap_attention(..., keep="graft")`, or what holds one, in place.
        example: `[B, C, H, W]` pictures on which to measure what this last step changes. After `zoo.fit` the new gates have taken over
            whole, and only rounding does.

    Returns:
        What was dropped in each slot, and how far the hand-over had come.

    Raises:
        ValueError: no gate is being handed over.
    """
    under_way = {path: gate for path, gate in slots(model).items() if isinstance(gate, HandOver)}
    if not under_way:
        raise ValueError(f"{type(model).__name__}: no gate is being handed over; swap_attention(..., keep='graft') starts it")
    before = _outputs(model, example)
    changes = []
    for path, gate in under_way.items():
        share = 1.0 if gate.share.is_meta else float(gate.share)
        how = "complete" if share == 1 else f"cut short at {share:.0%}"
        changes.append(Change(path, shown(gate.old), shown(gate.new), _parameters(gate.old), _parameters(gate.new), how))
        behind = reader(model, path)
        if behind is not None and gate.gain is not None:
            behind.weight.mul_(gate.gain.to(behind.weight).view(1, -1, 1, 1))
        place(model, path, gate.new)
    for network in model.modules():
        if "slots" in getattr(network, "_model_args", {}):
            name, args = origin(network)
            left = {path for path, gate in slots(network).items() if isinstance(gate, HandOver)}
            done = {path: each if path in left else _without_old(each) for path, each in args["slots"].items()}
            record(network, name, args, done)
    after = _outputs(model, example)
    difference, note = None, "the old gates are gone"
    if before is not None and after is not None:
        difference = float((after - before).abs().max()), float(before.abs().max())
        note += f"; the largest change of an output is {difference[0]:.3g}, of outputs up to {difference[1]:.3g}"
    cut = sum(change.how != "complete" for change in changes)
    note += f"; {cut} had not taken over whole: the network is not what it was" if cut else ""
    return SwapReport(tuple(changes), note, difference)


def _outputs(model: nn.Module, example: torch.Tensor | None) -> torch.Tensor | None:
    if example is None:
        return None
    with evaluating(model):
        return model(example)


def _without_old(description: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in description.items() if key != "from"}

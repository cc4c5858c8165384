"""Structured pruning: whole channels leave the widths inside the blocks, until a share of the multiplications is left.

Which layers know of a channel is torch-pruning's question (its dependency graph), and so is which channels matter least (the norm of all
weights that make and read one: Fang et al., DepGraph, arXiv 2301.12900). A gate is one opaque leaf to that graph, with a rule of its own
for what becomes of it: `narrow`, of the attention contract.

Only widths that begin and end inside a block are cut: an EfficientNet's expanded ones, a bottleneck's inner ones. Nearly all of the time
and the memory traffic is there, while what blocks hand to one another, shortcuts and features stay whole (docs/decisions/prune.md).
"""

import copy
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import CondConv2d
from torch import nn

from ..backbones.graft import hand_overs
from ..backbones.macs import count_macs, macs_of_shapes
from ..backbones.pruned import Width, cut, cut_to, record_cuts
from ..backbones.slots import blocks, input_size, shown, slots
from ..backbones.timm_gates import can_narrow, gate_name

_LEAST = 1 / 8  # of a width stays, whatever the target: a block of a few channels says nothing
_NEAR = 0.02  # of the target


@dataclass(frozen=True)
class Cut:
    """What happened to one width.

    Args:
        layer: path of the layer that makes its channels.
        gate: the name of the gate on it.
        before, after: channels.
    """

    layer: str
    gate: str
    before: int
    after: int


@dataclass(frozen=True)
class PruneReport(Sequence[Cut]):
    """The cuts, in the order of the network; prints as a table.

    Args:
        cuts: one a width that became narrower.
        macs: multiplications of one picture, before and after.
        parameters: before and after.
    """

    cuts: tuple[Cut, ...]
    macs: tuple[int, int]
    parameters: tuple[int, int]

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: Any) -> Any:
        return self.cuts[index]

    def __str__(self) -> str:
        head = ("width made by", "gate", "channels")
        rows = [(cut.layer, cut.gate, f"{cut.before:,} -> {cut.after:,}") for cut in self.cuts]
        width = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, width, strict=True)).rstrip() for row in (head, *rows)]
        totals = [
            f"{name}: {before / 1e6:,.2f} M -> {after / 1e6:,.2f} M ({after / before:.1%})"
            for name, (before, after) in (("MACs", self.macs), ("parameters", self.parameters))
        ]
        return "\n".join([lines[0], "  ".join("-" * size for size in width), *lines[1:], *totals])


# ---- which widths there are


class _Gate(nn.Module):
    """What stands for a gate while the graph is traced: it lets every channel through, so that both its sides are the same channels."""

    channels: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.channels = x.shape[1]
        return x * 1


class _Experts(nn.Module):
    """What stands for a conditional convolution: one whose kernel is as large as all the experts' together."""

    def __init__(self, layer: Any):
        super().__init__()
        kernels = layer.weight.detach().view(layer.num_experts, *layer.weight_shape)
        self.conv = nn.Conv2d(
            *(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride),
            padding=layer.kernel_size[0] // 2,
            groups=layer.groups,
            bias=False,
        )
        self.conv.weight = nn.Parameter(torch.linalg.vector_norm(kernels.float(), dim=0))

    def forward(self, x: torch.Tensor, routing: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def _traceable(model: nn.Module) -> nn.Module:
    """A copy that torch-pruning can follow: gates are leaves, conditional convolutions are plain ones."""
    traced = copy.deepcopy(model).float().cpu().requires_grad_()
    found = {path: _Gate() for path, gate in slots(traced).items() if gate is not None}
    experts = {path: _Experts(layer) for path, layer in traced.named_modules() if isinstance(layer, CondConv2d)}
    for path, stand_in in (found | experts).items():
        traced.set_submodule(path, stand_in)
    return traced


def _torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError("pruning needs torch-pruning: pip install 'effnet-zoo[prune]'") from error
    return torch_pruning


def _gate_rule(tp: Any) -> Any:
    """torch-pruning's word for a leaf whose two sides are the same channels. The cutting itself is `cut`'s."""

    class GateRule(tp.BasePruningFunc):
        def prune_out_channels(self, layer: _Gate, idxs: Sequence[int]) -> _Gate:
            return layer

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: _Gate) -> int | None:
            return layer.channels

        get_in_channels = get_out_channels

    return GateRule()


def _depthwise(layer: Any) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels


def _has_more(layer: nn.Module) -> bool:
    """Whether a layer has numbers of its own kind, as a convolution with a gain."""
    return bool({name for name, _ in [*layer.named_parameters(), *layer.named_buffers()]} - {"weight", "bias"})


def _width(group: Any, names: Mapping[nn.Module, str], tp: Any) -> Width | None:
    """The width that a group of torch-pruning's is, or None where something else hangs on its channels."""
    makers: list[str] = []
    each: list[str] = []
    readers: list[str] = []
    outward = (tp.prune_conv_out_channels, tp.prune_linear_out_channels)
    for dependency, _ in group:
        layer = dependency.target.module
        if isinstance(layer, nn.BatchNorm2d | _Gate) or _depthwise(layer):
            into = each
        elif isinstance(layer, nn.Conv2d | nn.Linear) and getattr(layer, "groups", 1) == 1 and not _has_more(layer):
            into = makers if dependency.handler in outward else readers
        elif type(layer).__name__ == "_ElementWiseOp":  # an activation, a pooling; a sum would bring a second maker
            continue
        else:
            return None
        if names[layer] not in into:
            into.append(names[layer])
    return Width(makers[0], tuple(each), tuple(readers)) if len(makers) == 1 and readers else None


def _inside(model: nn.Module, width: Width) -> bool:
    """Whether the channels begin and end inside a block; those of the stem do, where the first block alone reads them."""
    paths = [width.maker, *width.each, *width.readers]
    if "." not in width.maker:
        beyond = [path for path in paths if "." in path]
        return any(all(path.startswith(f"{block}.") for path in beyond) for _, block, _ in blocks(model))
    shared = os.path.commonprefix([path.split(".")[:-1] for path in paths])
    return bool(shared) and not isinstance(model.get_submodule(".".join(shared)), nn.Sequential | nn.ModuleList)


@contextmanager
def _quiet():
    """torch-pruning calls what it does not know element-wise, which custom functions between our layers are, and says so each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "\\[Warning\\] Unknown operation")
        warnings.filterwarnings("ignore", "Unwrapped parameters detected")
        yield


def widths(model: nn.Module, size: tuple[int, int, int] | None = None) -> dict[Width, torch.Tensor]:
    """Every width that can be cut, in the order of the network, and how much each of its channels matters, the mean being one.

    Raises:
        ImportError: torch-pruning is not installed.
        ValueError: a gate says not how it is made narrower, or is being handed over.
    """
    tp = _torch_pruning()
    if under_way := [path for path, _ in hand_overs(model)]:
        raise ValueError(f"{under_way[0]}: a new gate is taking over from an old one there; train first, or call zoo.finish_swap(model)")
    traced = _traceable(model)
    names = {layer: path.removesuffix(".conv") if _is_experts(traced, path) else path for path, layer in traced.named_modules()}
    with _quiet(), torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(
            traced, torch.zeros(1, *(size or input_size(model))), customized_pruners={_Gate: _gate_rule(tp)}, verbose=False
        )
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    features = {each["module"] for each in getattr(model, "feature_info", ()) or ()}
    found: dict[Width, torch.Tensor] = {}
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        width = _width(group, names, tp)
        if width is None or not _inside(model, width) or features & {width.maker, *width.each}:
            continue
        for path in width.each:
            gate = model.get_submodule(path)
            if gate_name(gate) is not None and not can_narrow(gate):
                raise ValueError(
                    f"{path}: {type(gate).__name__} ({shown(gate)}) does not say what is left of it for some of its channels, so the "
                    "network cannot be pruned; give it a method narrow(keep), as registry.ATTENTION asks, or swap it (zoo swap)"
                )
        found[width] = importance(group)
    order = {path: place for place, (path, _) in enumerate(model.named_modules())}
    return dict(sorted(found.items(), key=lambda item: order[item[0].maker]))


def _is_experts(model: nn.Module, path: str) -> bool:
    return isinstance(model.get_submodule(path.rpartition(".")[0]), _Experts)


# ---- how much of each


@dataclass(frozen=True)
class _Rule:
    """How a width may be cut: to multiples of `step` channels, runs of `unit`, as many in each of `parts` parts."""

    channels: int
    parts: int
    unit: int
    step: int

    @property
    def least(self) -> int:
        return max(self.step, math.ceil(self.channels * _LEAST / self.step) * self.step)

    def choose(self, scores: torch.Tensor, count: int) -> list[int]:
        """The most important channels, ascending."""
        runs = scores.view(self.parts, -1, self.unit).sum(2)
        best = runs.topk(count // self.parts // self.unit, 1).indices.sort(1).values  # [parts, runs that stay]
        first = torch.arange(self.parts)[:, None] * runs.shape[1] + best
        return (first.flatten()[:, None] * self.unit + torch.arange(self.unit)).flatten().tolist()


def _rule(model: nn.Module, width: Width, round_to: int) -> _Rule | None:
    channels, (parts, unit) = width.channels(model), width.rule(model)
    finest = parts * unit
    if channels % finest:
        return None
    step = math.lcm(round_to, finest)
    step = step if step <= channels // 2 else finest
    return _Rule(channels, parts, unit, step) if step <= channels // 2 else None


def _steps(rules: Mapping[Width, _Rule], since: nn.Module) -> list[tuple[Width, int]]:
    """Every single cut that can be made, as (width, channels left), in order: always the width of which the largest share is left."""
    cuts = [
        (left / width.channels(since), width, left)
        for width, rule in rules.items()
        for left in range((rule.channels - 1) // rule.step * rule.step, rule.least - 1, -rule.step)
    ]
    return [(width, left) for _, width, left in sorted(cuts, key=lambda cut: -cut[0])]


def _nearest(steps: Sequence[tuple[Width, int]], target: float, left: Callable[[Mapping[Width, int]], int]) -> dict[Width, int]:
    """The cuts, taken in order, after which the multiplications are nearest to the target: what they are is `left`'s to say."""
    low, high = 0, len(steps)  # more than the target is left after `low` cuts, not more after `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if left(dict(steps[:middle])) > target else (low, middle)
    chosen, too_coarse = dict(steps[:low]), set()  # of each width the last cut counts
    now = left(chosen)
    for width, count in steps[low:]:
        if now <= target * (1 + _NEAR):
            break
        if width in too_coarse:
            continue
        after = left({**chosen, width: count})
        if after < target * (1 - _NEAR):  # a step may be large in a small network: then another width's is taken
            too_coarse.add(width)
        else:
            chosen[width], now = count, after
    return chosen


@dataclass(frozen=True)
class _Plan:
    """What can be cut: how much each channel matters, how each width may be cut, all cuts in order, and what is left after some."""

    scores: Mapping[Width, torch.Tensor]
    rules: Mapping[Width, _Rule]
    steps: Sequence[tuple[Width, int]]
    whole: int
    left: Callable[[Mapping[Width, int]], int]


def _plan(model: nn.Module, macs: float, size: tuple[int, int, int] | None, round_to: int, since: nn.Module) -> _Plan:
    if not 0 < macs < 1:
        raise ValueError(f"macs: expected the share of the multiplications that is to be left, between 0 and 1, such as 0.5, got {macs}")
    if round_to < 1:
        raise ValueError(f"round_to: expected a whole number of at least 1, such as 8, got {round_to}")
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture") or type(model).__name__
    scores = widths(model, size)
    rules = {width: rule for width in scores if (rule := _rule(model, width, round_to)) is not None}
    if not rules:
        raise ValueError(
            f"{name} has no width that can be cut: expected blocks with channels of their own, as the expanded ones of an EfficientNet"
        )
    empty = copy.deepcopy(model).to("meta")
    steps = _steps(rules, since)

    def left(cuts: Mapping[Width, int]) -> int:
        shape = copy.deepcopy(empty)
        for width, count in cuts.items():
            cut_to(shape, width, count)
        try:
            return macs_of_shapes(shape, size or input_size(model))
        except RuntimeError as error:  # something knows of the channels without saying so
            raise ValueError(f"{name} cannot be pruned: {str(error).partition(chr(10))[0]}") from error

    whole, least = left({}), left(dict(steps))
    if least > macs * whole:
        raise ValueError(
            f"macs: {macs:g} cannot be reached in {name}: with every width inside its blocks at an eighth, {least / whole:.3f} of the "
            "multiplications are left; they are in the stem, the head and what blocks hand to one another"
        )
    return _Plan(scores, rules, steps, whole, left)


def check_target(model: nn.Module, macs: float, *, size: tuple[int, int, int] | None = None, round_to: int = 8) -> None:
    """Raises what `prune` would, and cuts nothing: for those who go to the target in steps, with hours between them."""
    _plan(model, macs, size, round_to, model)


def prune(
    model: nn.Module, macs: float = 0.5, *, size: tuple[int, int, int] | None = None, round_to: int = 8, since: nn.Module | None = None
) -> PruneReport:
    """Cut the widths inside a network's blocks, in place, until this share of its multiplications is left.

    Every width loses about the same share, and in it the channels go that matter least. What is left has to learn again: train it, or
    take `zoo prune`, which does both, in steps. Saved by `save_model`, it comes back as it is.

    Args:
        model: any timm network with residual blocks; its gates may be of the zoo, of timm, or of anybody who wrote a `narrow`.
        macs: the share of the multiplications that is to be left, between 0 and 1.
        size: [C, H, W] of the pictures on which they are counted; the network's own by default.
        round_to: widths become multiples of this, which processors work through without rest.
        since: the network before earlier cuts, so that in the end every width has lost about the same share of what it was there.

    Returns:
        What was cut; prints as a table.

    Raises:
        ImportError: torch-pruning is not installed.
        ValueError: a target that is none or cannot be reached, a network without such a width, a gate that cannot be made narrower.
    """
    plan = _plan(model, macs, size, round_to, since or model)
    scores, rules = plan.scores, plan.rules
    chosen = _nearest(plan.steps, macs * plan.whole, plan.left)
    parameters = _parameters(model)
    cuts = []
    for width, count in chosen.items():
        gates = [shown(gate) for gate in width.gates(model)]
        cuts.append(Cut(width.maker, gates[0] if gates else "none", width.channels(model), count))
        cut(model, width, rules[width].choose(scores[width], count))
    record_cuts(model, chosen)
    order = {width.maker: place for place, width in enumerate(scores)}
    report = PruneReport(tuple(sorted(cuts, key=lambda each: order[each.layer])), (plan.whole, 0), (parameters, _parameters(model)))
    return PruneReport(report.cuts, (plan.whole, count_macs(model, size)), report.parameters)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())

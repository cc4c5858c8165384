"""What each gate of a network did to its input, in one forward pass: the numbers that it multiplied it by.

A gate's own code is what knows, so that is what is asked: it runs a second time on the same input, and the input is followed through it,
operation by operation (torch's dispatch mode). What is multiplied with it is a factor, what is added to it is an addition, and what is
made of it in any other way (a mean, a convolution) is somebody else. So no gate has to say anything about itself, timm's and those of
other packages included, and what is given out is what was applied, not a second opinion. Where the trail is lost, as in a gate that
answers with a convolution, the multiplier is output / input, and the map says that it is derived.

The fused passes of zoo/layers serve the network itself and stay out of this run, which takes their plain form: the same equation with
another order of rounding, so the factors of the gates that use them are what was applied up to a few units in the last place.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..backbones import attention_slots
from ..backbones.slots import evaluating, stage
from ..joint import JointEmbedding

Step = tuple[Callable[..., Tensor], Tensor]

_aten = torch.ops.aten
_ARITHMETIC: dict[Any, Callable[..., Tensor]] = {
    _aten.mul: torch.mul,
    _aten.mul_: torch.mul,
    _aten.div: torch.div,
    _aten.div_: torch.div,
    _aten.add: torch.add,
    _aten.add_: torch.add,
    _aten.sub: torch.sub,
    _aten.sub_: torch.sub,
}
_SAME = {_aten.alias, _aten.clone, _aten.contiguous, _aten.detach, _aten.lift_fresh, _aten._to_copy}  # other memory, the same numbers
_MOVES = {  # the same numbers in other places
    *(_aten.view, _aten._unsafe_view, _aten.reshape, _aten.unsqueeze, _aten.squeeze, _aten.expand, _aten.permute, _aten.transpose),
    *(_aten.select, _aten.slice, _aten.split, _aten.split_with_sizes, _aten.unbind, _aten.stack, _aten.cat),
    *(_aten.index_select, _aten.flip, _aten.roll, _aten.t, _aten.movedim, _aten.channel_shuffle),
}
_RESHAPES = {_aten.view, _aten._unsafe_view}  # which an expanded factor does not allow
_CHOICES = {_aten.maximum, _aten.minimum, _aten.lerp, _aten.where}  # of two paths of x, element by element


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """What one gate did: output = input * multiplier + added, channel by channel in the order of the input.

    Args:
        gate: the registered name, or the name of what timm's class does; "old>new" while one takes over from another.
        stage: 0-based; None of a gate that stands in no stage.
        multiplier: broadcasts against the gate's input [B, C, H, W]: [B, C, 1, 1] of a gate that weighs channels, [B, 1, H, W] of one that
            weighs places; ones where the gate only adds.
        parts: the factors in the order in which they were applied, named by what they differ in: "channel" [B, C, 1, 1], "spatial"
            [B, 1, H, W], "rows" [B, C, H, 1], "columns" [B, C, 1, W], "both" [B, C, H, W], "all"; a second one of a kind is "channel2".
            Their product is `multiplier`. Empty where the gate only adds.
        added: what was added, in the end, broadcasting like `multiplier`; None: nothing.
        derived: `multiplier` is output / input, because the gate's arithmetic could not be followed. Where the input is zero, or next to
            it, the multiplier is 1, and what came out is in `added`.
        shape: of the gate's input, (B, C, H, W).
        input: of the gate; None unless it was asked for.
        order: input channel at each place of the output, of a gate that moves channels about; None: all stay where they are.
        steps: (function, operand) that, one after the other, make the output of the input.
    """

    gate: str
    stage: int | None
    multiplier: Tensor
    parts: dict[str, Tensor]
    added: Tensor | None = None
    derived: bool = False
    shape: tuple[int, ...] = ()
    input: Tensor | None = None
    order: Tensor | None = None
    steps: tuple[Step, ...] = ()

    def apply(self, x: Tensor) -> Tensor:
        """What the gate makes of x: [B, C, H, W] -> the same shape; every rounding as in the gate's own code."""
        y = x
        for function, operand in self.steps:
            y = function(y, operand)
        return (y if self.order is None else y[:, self.order]).to(x.dtype)


@dataclass(frozen=True)
class _Trail:
    """How a tensor came from x.

    Args:
        source: which channel of x stands at each place.
        steps: what was done to it.
    """

    source: Tensor
    steps: tuple[Step, ...] = ()

    def then(self, function: Callable[..., Tensor], operand: Any, like: Tensor) -> "_Trail | None":
        """One step more; None where the operand makes the tensor larger."""
        if like.shape != self.source.shape:
            return None
        value = operand if isinstance(operand, Tensor) else torch.as_tensor(operand, dtype=like.dtype, device=like.device)
        return _Trail(self.source, (*self.steps, (function, value.reshape((1,) * (like.ndim - value.ndim) + value.shape))))

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """(m, a) such that the tensor is x * m + a."""
        multiplier: Tensor = self.source.new_ones(
            (1,) * self.source.ndim, dtype=torch.bool
        )  # the narrowest of types: takes that of the rest
        added: Tensor | None = None
        for function, operand in self.steps:
            if function in (torch.mul, torch.div):
                multiplier = function(multiplier, operand)
                added = None if added is None else function(added, operand)
            else:
                added = function(torch.zeros_like(operand) if added is None else added, operand)
        return multiplier, added

    def moved(self, move: Callable[[Tensor], Any]) -> "list[_Trail]":
        """The trails of what a function of one tensor gives, which may be several tensors."""
        sources = _as_list(move(self.source))
        operands = [_as_list(move(operand.expand(self.source.shape))) for _, operand in self.steps]
        functions = [function for function, _ in self.steps]
        return [
            _Trail(source, tuple(zip(functions, (each[number] for each in operands), strict=True))) for number, source in enumerate(sources)
        ]


def _as_list(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _of(source: Tensor, multiplier: Tensor, added: Tensor | None) -> _Trail:
    return _Trail(source, ((torch.mul, multiplier), *(() if added is None else ((torch.add, added),))))


class _Follow(TorchDispatchMode):
    """Inside, x is followed; afterwards `trail(tensor)` tells how a tensor came from it."""

    def __init__(self, x: Tensor):
        super().__init__()
        channels = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1).expand(x.shape)
        self._trails: dict[int, tuple[Tensor, _Trail]] = {id(x): (x, _Trail(channels))}  # with the tensor, whose id nobody else gets then

    def trail(self, tensor: Any) -> _Trail | None:
        return self._trails[id(tensor)][1] if id(tensor) in self._trails else None

    def _set(self, tensor: Tensor, trail: _Trail | None) -> None:
        self._trails.pop(id(tensor), None)
        if trail is not None:
            self._trails[id(tensor)] = (tensor, trail)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        values, _ = tree_flatten((args, kwargs))
        known = any(self.trail(value) is not None for value in values if isinstance(value, Tensor))
        pair = packet in _CHOICES and known  # what is chosen between is compared before anything is written
        out = func(*args, **kwargs)
        if not known:
            return out
        if packet is _aten.copy_:
            self._set(out, self._copied(args[0], self.trail(args[1])))
        elif packet in _ARITHMETIC:
            self._set(out, self._computed(_ARITHMETIC[packet], args, kwargs, out))
        elif packet in _SAME:
            self._set(out, self.trail(args[0]))
        elif packet in _MOVES:
            for tensor, trail in zip(_as_list(out), self._moved(func, args, kwargs), strict=False):
                self._set(tensor, trail)
        elif pair:
            self._set(out, self._chosen(packet, args, out))
        else:
            for value, argument in zip(args, func._schema.arguments, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._set(value, None)  # overwritten with something else
        return out

    def _copied(self, to: Tensor, trail: _Trail | None) -> _Trail | None:
        return None if trail is None else trail.moved(lambda tensor: tensor.expand(to.shape))[0]

    def _computed(self, function: Callable[..., Tensor], args: Any, kwargs: Any, out: Tensor) -> _Trail | None:
        one, other = args[:2]
        alpha = kwargs.get("alpha", 1)
        if alpha != 1:
            other = other * alpha
        first, second = self.trail(one), self.trail(other)
        if first is not None and second is not None and function in (torch.add, torch.sub):
            if torch.equal(first.source, second.source):  # two paths of the same x
                (m, a), (n, b) = first.folded(), second.folded()
                m, n = m.to(out.dtype), n.to(out.dtype)
                sums = [each for each in (a, None if b is None else function(torch.zeros_like(b), b)) if each is not None]
                return _of(first.source, function(m, n), sum(sums[1:], sums[0]) if sums else None)
        if first is not None:
            return first.then(function, other, out)
        return second.then(function, one, out) if second is not None and function in (torch.mul, torch.add) else None

    def _moved(self, func: Any, args: Any, kwargs: Any) -> "list[_Trail]":
        values, tree = tree_flatten((args, kwargs))
        tensors = [place for place, value in enumerate(values) if isinstance(value, Tensor) and value.is_floating_point()]
        trails = [self.trail(values[place]) for place in tensors]
        known = [trail for trail in trails if trail is not None]
        if len(known) < len(trails):
            return []  # laid beside something else
        if len(known) > 1:  # several become one: each as x * m + a
            folded = [trail.folded() for trail in known]
            adds = any(added is not None for _, added in folded)
            known = [
                _of(trail.source, m, torch.zeros_like(m) if a is None and adds else a) for trail, (m, a) in zip(known, folded, strict=True)
            ]

        def replay(pieces: list[Tensor]) -> Any:
            filled = list(values)
            for place, piece in zip(tensors, pieces, strict=True):
                filled[place] = piece
            again, options = tree_unflatten(filled, tree)
            return torch.reshape(*again) if func.overloadpacket in _RESHAPES else func(*again, **options)

        if len(known) == 1:
            return known[0].moved(lambda tensor: replay([tensor]))
        source = replay([trail.source for trail in known])
        expanded = [[operand.expand(trail.source.shape) for _, operand in trail.steps] for trail in known]
        return [_Trail(source, tuple((step[0], replay(list(each))) for step, *each in zip(known[0].steps, *expanded, strict=True)))]

    def _chosen(self, packet: Any, args: Any, out: Tensor) -> _Trail | None:
        one, other = args[1:3] if packet is _aten.where else args[:2]
        first, second = self.trail(one), self.trail(other)
        if first is not None and second is not None and not torch.equal(first.source, second.source):
            second = None  # elsewhere in x: to this place it is something that is added
        source = first.source if first is not None else second.source if second is not None else None
        if source is None or source.shape != out.shape:
            return None
        zero = out.new_zeros((1,) * out.ndim)
        (m, a), (n, b) = ((zero, value) if trail is None else trail.folded() for trail, value in ((first, one), (second, other)))
        m, n = m.to(out.dtype), n.to(out.dtype)
        adds = a is not None or b is not None
        a, b = (zero if each is None else each for each in (a, b))
        if packet is _aten.lerp:
            return _of(source, torch.lerp(m, n, args[2]), torch.lerp(a, b, args[2]) if adds else None)
        taken = args[0] if packet is _aten.where else one >= other if packet is _aten.maximum else one <= other
        return _of(source, torch.where(taken, m, n), torch.where(taken, a, b) if adds else None)


def _squeezed(operand: Tensor, moved: bool) -> Tensor:
    """Without what it only repeats; what was moved about may repeat in memory too."""
    for dim, stride in enumerate(operand.stride()):
        one = operand.narrow(dim, 0, 1)
        if dim and (stride == 0 or (moved and torch.equal(one.expand_as(operand), operand))):
            operand = one
    return operand


def _kind(factor: Tensor, shape: torch.Size) -> str:
    """What a factor differs in."""
    channels, rows, columns = (size == whole for size, whole in zip(factor.shape[1:], shape[1:], strict=True))
    if factor.shape[2] == factor.shape[3] == 1:
        return "channel" if factor.shape[1] > 1 or shape[1] == 1 else "spatial" if rows and columns else "all"
    if factor.shape[1] == 1 and not (channels and rows and columns):
        return "spatial"
    return "both" if rows and columns else "rows" if rows else "columns"


def _traced(gate: nn.Module, x: Tensor) -> tuple[tuple[Step, ...], Tensor | None] | None:
    """The steps from x to the gate's output and the order of its channels; None where the trail is lost."""
    follow = _Follow(x)
    with follow:
        y = gate.forward(x)
    trail = follow.trail(y)
    if trail is None or trail.source.shape != x.shape or not x.numel():
        return None
    order, in_place = trail.source[0, :, 0, 0], torch.arange(x.shape[1], device=x.device)
    moved = not torch.equal(order, in_place)
    steps = tuple((function, _squeezed(operand, moved)) for function, operand in trail.steps)
    if not moved:
        return steps, None
    if not torch.equal(order.sort().values, in_place):
        return None
    back = order.argsort()  # to the order of the input
    return tuple((function, operand[:, back] if operand.shape[1] > 1 else operand) for function, operand in steps), order


def _near(found: Tensor, y: Tensor) -> bool:
    """Apart from rounding the same: what was followed wrongly is not nearly right."""
    near = torch.finfo(y.dtype).eps ** 0.5
    scale = float(y.abs().nan_to_num(0, 0, 0).amax()) if y.numel() else 0.0
    return torch.allclose(found, y, rtol=near, atol=near * scale, equal_nan=True)


def _read(gate: nn.Module, name: str, path: str, x: Tensor, y: Tensor, traced: Any, keep: bool) -> AttentionMap:
    about: dict[str, Any] = {"gate": name, "stage": stage(path), "shape": tuple(x.shape), "input": x if keep else None}
    if traced is not None:
        steps, order = traced
        multiplier, added = _Trail(x, steps).folded()
        parts: dict[str, Tensor] = {}
        for function, operand in steps:
            if function in (torch.mul, torch.div):
                kind = _kind(operand, x.shape)
                number = sum(each.rstrip("0123456789") == kind for each in parts) + 1
                parts[kind if number == 1 else f"{kind}{number}"] = operand if function is torch.mul else operand.reciprocal()
        found = AttentionMap(
            multiplier=multiplier.to(y.dtype) if not parts else multiplier, parts=parts, added=added, order=order, steps=steps, **about
        )
        if _near(found.apply(x), y):
            return found
    quotient = y / x
    multiplier = torch.where(quotient.isfinite(), quotient, 1)
    left = torch.where(quotient.isfinite(), 0, y)
    added = left if bool((left != 0).any()) else None
    steps = ((torch.mul, multiplier), *(() if added is None else ((torch.add, added),)))
    return AttentionMap(multiplier=multiplier, parts={"both": multiplier}, added=added, derived=True, steps=steps, **about)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """In eval mode and not compiled; afterwards modes and random numbers are what they were."""
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod") for module in model.modules())
    eager: Any = torch.compiler.set_stance("force_eager") if compiled and "torch._dynamo" in sys.modules else nullcontext()
    cards = sorted({each.device.index for each in model.parameters() if each.device.type == "cuda"})
    with torch.random.fork_rng(cards), eager, evaluating(model):
        yield


def attention_maps(model: nn.Module, x: Tensor | Mapping[str, Tensor], *, inputs: bool = False) -> dict[str, AttentionMap]:
    """What every gate of a network does to its input when the network sees x, in eval mode.

    Works for any timm network and any registered gate, during a swap, and after pruning. The model stays as it is: weights, statistics,
    modes, hooks, gradients and random numbers.

    Args:
        model: the network; of a joint embedding its image tower is asked.
        x: [B, 3, H, W] as the network takes it; of a joint embedding also the dict that it takes.
        inputs: also keep the map that each gate was given, as `AttentionMap.input`.

    Returns:
        Dotted path of the gate -> what it did, in the order of the network; empty where there is no gate, and without those that x did
        not come by. Of a gate that is called several times, the last time.
    """
    while hasattr(model, "_orig_mod"):  # what torch.compile returns
        model = model._orig_mod  # type: ignore[assignment]
    found: dict[str, AttentionMap] = {}
    handles: list[Any] = []
    before: dict[str, Any] = {}

    def watch(path: str, name: str, gate: nn.Module) -> None:
        def entering(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            kept = args[0].clone()  # a gate may work in place
            before[path] = kept, _traced(gate, kept.clone())

        def leaving(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
            kept, traced = before.pop(path)
            if y.shape == kept.shape:
                found[path] = _read(gate, name, path, kept, y, traced, inputs)

        handles.extend((gate.register_forward_pre_hook(entering), gate.register_forward_hook(leaving)))

    try:
        with untouched(model), torch.no_grad():
            slots = attention_slots(model)
            for path, name, gate in slots:
                watch(path, name, gate)
            model({"image": x} if isinstance(model, JointEmbedding) and isinstance(x, Tensor) else x)
    finally:
        for handle in handles:
            handle.remove()
    return {path: found[path] for path, _, _ in slots if path in found}

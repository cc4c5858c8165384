"""What a gate costs on one CPU core, beside timm's class of the same gate.

Each gate is run over the maps that reach the sixteen gates of EfficientNet-B0, with that network's reduction and activation. The unit is
one copy of the input, y = x, which is the least that anything can cost that reads x and writes y; it makes two machines comparable where
milliseconds do not. Ours, timm's and the copy take turns, so that what else the machine is doing meets all three, and a ratio is taken
within a round, never between rounds. The clock is the processor time of this process.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import get_attn
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

from registry import ATTENTION

from ..backbones.slots import blocks, maps, reduction
from ..progress import progress
from .rounds import Spread, at_least_one, in_turn, on_threads, spread

LEAST_SECONDS = 2e-2  # of one timing: a smaller workload is repeated within it
MOST_REPEATS = 10_000
WARM_UPS = 2
LARGEST_MAP: Mapping[str, int] = {"nl": 28}  # pixels a side: every pixel looks at every other one, which is for late stages

TIMMS: Mapping[str, Callable[..., nn.Module]] = {
    "se": SqueezeExcite,  # of its EfficientNets; `get_attn("se")` is another class
    # of the same name but another thing: strip; not constructible in timm 1.0.31: ge
    **{name: get_attn(name) for name in ("ese", "eca", "ceca", "cbam", "lcbam", "coord", "scoord", "ela", "gc", "gca", "nl")},
}
_SAME: Mapping[str, Callable[[Any], dict[str, Any]]] = {  # what timm's class must be told to compute what ours does
    "cbam": lambda ours: {"rd_channels": ours.channel.fc1.out_features, "mlp_bias": True},
    "coord": lambda ours: {"rd_channels": ours.conv1.out_channels, "bias": True},
}
_UNKNOWN: Mapping[str, tuple[str, ...]] = {"ceca": ("rd_ratio", "act_layer"), "ela": ("rd_ratio",)}  # to timm's class


@dataclass(frozen=True)
class Cost:
    """Of all slots together: times in copies of the input, memory in multiples of the input.

    Args:
        forward: in eval mode, without gradients.
        train: forward and backward in train mode, to the input and all parameters.
        saved: what the forward pass keeps for the backward pass, parameters and buffers aside.
        parameters: how many; of one reduction two classes may make two widths, and not every class has biases.
    """

    forward: float
    train: float
    saved: float
    parameters: int


@dataclass(frozen=True)
class Measured:
    """A gate at one batch size.

    Args:
        slots: how many of the network's sixteen places it was measured in.
        copy_ms: processor time of one copy of all inputs, in milliseconds.
        timm: None where timm has no such gate.
        forward: how many times as long timm's takes.
        train: the same, of forward and backward.
        note: what was left out.
    """

    gate: str
    batch_size: int
    slots: int
    copy_ms: float
    ours: Cost
    timm: Cost | None
    forward: Spread | None
    train: Spread | None
    note: str = ""


@dataclass(frozen=True)
class Place:
    """A map that a gate meets, and the reduction that EfficientNet asks for there."""

    channels: int
    height: int
    width: int
    rd_ratio: float


def places(img_size: int) -> Counter[Place]:
    """The maps that reach the gates of EfficientNet-B0, and how many gates each of them reaches."""
    overlay = {"input_size": (3, img_size, img_size)}
    network: Any = timm.create_model("effnet_se_b0", device="meta", pretrained_cfg_overlay=overlay)
    ratios = {f"{path}.se": reduction(block) for _, path, block in blocks(network)}
    reached = maps(network, list(ratios))
    found: Counter[Place] = Counter()
    for path, ratio in ratios.items():
        _, channels, height, width = reached[path]
        found[Place(channels, height, width, ratio)] += 1
    return found


@torch.no_grad()
def as_trained(gate: nn.Module) -> nn.Module:
    """Random numbers of the size that training leaves, in the place of a start at which a gate is constant; returns the gate."""
    for module in gate.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                parameter.normal_(0, (parameter.numel() / parameter.shape[0]) ** -0.5)
            elif name == "weight":
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, 0.1)
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_mean":
                buffer.normal_(0, 0.1)
            elif name == "running_var":
                buffer.uniform_(0.5, 1.5)
    return gate


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """What one forward pass in train mode keeps for the backward pass, each storage once; parameters and buffers are there anyway."""
    theirs = {each.untyped_storage().data_ptr() for each in [*module.parameters(), *module.buffers()]}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in theirs:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    module.train()
    leaf = x.detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(leaf)  # held until all is counted: no address is given out twice
    total = sum(storages.values())
    del y
    return total


def _forward(gate: nn.Module, x: Tensor) -> Callable[[], None]:
    def work() -> None:
        with torch.no_grad():
            gate(x)

    return work


def _train(gate: nn.Module, x: Tensor, gy: Tensor) -> Callable[[], None]:
    leaf = x.detach().requires_grad_()
    leaves = [leaf, *gate.parameters()]

    def work() -> None:
        for each in leaves:
            each.grad = None
        gate(leaf).backward(gy)

    return work


def _seconds(work: Callable[[], Any], repeats: int) -> float:
    """Processor time of one call, after one that meets what the work before it left in the caches and the allocator."""
    work()
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


def _repeats(work: Callable[[], Any]) -> int:
    """How often a workload is to be called within one timing; its warm-up."""
    for _ in range(WARM_UPS):
        work()
    repeats = 1
    while repeats < MOST_REPEATS and (taken := _seconds(work, repeats) * repeats) < LEAST_SECONDS:
        repeats = min(MOST_REPEATS, max(2 * repeats, math.ceil(repeats * LEAST_SECONDS / max(taken, LEAST_SECONDS / 100))))
    return repeats


def time_place(gates: Mapping[str, nn.Module], x: Tensor, rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each round of "copy", and of "forward" and "train" before each gate's name; and the bytes that each gate saves."""
    y, gy = torch.empty_like(x), torch.randn_like(x)
    saved = {whose: saved_bytes(gate, x) for whose, gate in gates.items()}
    works: dict[str, tuple[nn.Module | None, bool, Callable[[], Any]]] = {"copy": (None, False, lambda: y.copy_(x))}
    for whose, gate in gates.items():
        works[f"forward {whose}"] = gate, False, _forward(gate, x)
    for whose, gate in gates.items():
        works[f"train {whose}"] = gate, True, _train(gate, x, gy)

    def turn(key: str, run: Callable[[Callable[[], Any]], Any]) -> Any:
        gate, training, work = works[key]
        if gate is not None:
            gate.train(training)
        return run(work)

    repeats = {key: turn(key, _repeats) for key in works}
    seconds: dict[str, list[float]] = {key: [] for key in works}
    for number in range(rounds):
        for key in in_turn(number, works):
            seconds[key].append(turn(key, lambda work, key=key: _seconds(work, repeats[key])))  # type: ignore[misc]
    return seconds, saved


def _built(gate: str, place: Place, batch_size: int) -> dict[str, nn.Module]:
    """Ours, and timm's where there is one."""
    asked: dict[str, Any] = {"rd_ratio": place.rd_ratio, "act_layer": nn.SiLU}
    built = {"ours": as_trained(ATTENTION[gate](place.channels, **asked))}
    if gate in TIMMS:
        known = {name: value for name, value in asked.items() if name not in _UNKNOWN.get(gate, ())}
        same = _SAME[gate](built["ours"]) if gate in _SAME else {}
        built["timm"] = as_trained(TIMMS[gate](place.channels, **known, **same))
        try:
            built["timm"].train()(torch.zeros(batch_size, place.channels, place.height, place.width))
        except ValueError as error:  # its batch normalisation, of a single value
            at = f"{batch_size} x {place.channels} x {place.height} x {place.width}"
            raise ValueError(f"{gate}: timm's class cannot train on a map of {at} ({error}); take larger pictures") from error
    return built


def _bench(gate: str, batch_size: int, rounds: int, seed: int, found: Mapping[Place, int], advance: Callable[[str], None]) -> Measured:
    largest = LARGEST_MAP.get(gate, max(max(place.height, place.width) for place in found))
    taken = {place: count for place, count in found.items() if max(place.height, place.width) <= largest}
    if not taken:
        raise ValueError(f"{gate} is measured on maps of up to {largest} x {largest}, and there is none: take smaller pictures")
    sums: dict[str, list[float]] = {}
    saved: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    entering = 0
    torch.manual_seed(seed)
    for place, count in found.items():
        if place in taken:
            gates = _built(gate, place, batch_size)
            x = torch.randn(batch_size, place.channels, place.height, place.width)
            seconds, kept = time_place(gates, x, rounds)
            entering += count * x.nbytes
            for whose, number in kept.items():
                saved[whose] += count * number
                parameters[whose] += count * sum(parameter.numel() for parameter in gates[whose].parameters())
            for key, values in seconds.items():
                sums[key] = [old + count * new for old, new in zip(sums.get(key, [0.0] * rounds), values, strict=True)]
        advance(f"{gate}, batch {batch_size}")

    def ratios(over: str, under: str) -> list[float]:
        return [a / b for a, b in zip(sums[over], sums[under], strict=True)]

    def cost(whose: str) -> Cost:
        forward, train = (statistics.median(ratios(f"{what} {whose}", "copy")) for what in ("forward", "train"))
        return Cost(forward, train, saved[whose] / entering, parameters[whose])

    both = "timm" in saved
    slots, left_out = sum(taken.values()), sum(found.values()) - sum(taken.values())
    return Measured(
        gate,
        batch_size,
        slots,
        copy_ms=statistics.median(sums["copy"]) * 1e3,
        ours=cost("ours"),
        timm=cost("timm") if both else None,
        forward=spread(ratios("forward timm", "forward ours")) if both else None,
        train=spread(ratios("train timm", "train ours")) if both else None,
        note=f"maps up to {largest} x {largest} only, {slots} of {slots + left_out} slots" if left_out else "",
    )


def bench_attention(
    gates: Sequence[str], batch_sizes: Sequence[int] = (1, 16), *, rounds: int = 7, img_size: int = 224, seed: int = 0
) -> list[Measured]:
    """Measure gates of EfficientNet-B0 on one thread, in float32; one entry a gate and batch size, in the order given.

    Args:
        gates: registered names; those that timm has too are measured beside timm's class.
        rounds: how often everything is timed, after a warm-up.
        img_size: of the pictures; it decides the size of the maps.
        seed: of weights and maps.

    Raises:
        KeyError: an unknown gate; the message offers the nearest names.
        ValueError: a number below 1, or pictures too small for timm's class or too large for the gate.
    """
    for name in gates:
        ATTENTION[name]
    at_least_one([("rounds", rounds), ("img_size", img_size), *(("batch_size", each) for each in batch_sizes)])
    found = places(img_size)
    jobs = [(gate, batch_size) for gate in dict.fromkeys(gates) for batch_size in dict.fromkeys(batch_sizes)]
    with on_threads(1), torch.random.fork_rng(devices=[]), progress(len(jobs) * len(found), "bench") as advance:
        return [_bench(gate, batch_size, rounds, seed, found, advance) for gate, batch_size in jobs]

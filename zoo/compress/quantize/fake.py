"""Fake quantization: a network that computes in floats what it would say with int8 weights and int8 inputs of its layers.

    weight:  w -> s round(w / s),            s = max |w| / 127     of each output channel: S8, symmetric
    input:   x -> s (round(x / s + z) - z)   over the range [lo, hi] that was seen, of the whole tensor: U8

Gradients pass through where nothing is clipped (straight-through: Bengio et al., arXiv 1308.3432; Jacob et al., arXiv 1712.05877). A batch
norm behind a convolution may stay: folding it scales whole output channels, which commutes with rounding them by their own scale.

The network keeps its own parameters under their own names; what is added is the range of each layer's input (`Range`), a child of it.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...progress import tracked

_CHILD = "input_range"
_TOWARDS = 0.1  # of the way to what a step has seen is what a range moves


class Range(nn.Module):
    """The range of a layer's input; it is widened to hold 0, which padding is full of.

    Args:
        like: a tensor of the layer, for the device.
    """

    lo: Tensor
    hi: Tensor

    def __init__(self, like: Tensor):
        super().__init__()
        for name in ("lo", "hi"):
            self.register_buffer(name, torch.zeros((), device=like.device))
        self.seen: tuple[Tensor, Tensor] | None = None
        self.watching = self.quantizing = False

    def forward(self, x: Tensor) -> Tensor:
        if self.watching or self.training:
            lo, hi = (each.float() for each in x.detach().aminmax())
            before = self.seen or (lo.clamp(max=0), hi.clamp(min=0))
            self.seen = torch.minimum(before[0], lo), torch.maximum(before[1], hi)
        if not self.quantizing:
            return x
        scale = ((self.hi - self.lo) / 255).clamp(min=1e-9)
        zero = (-self.lo / scale).round().clamp(0, 255).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255).to(x.dtype)

    def take(self, share: float) -> None:
        """Move towards what was seen since the last time."""
        if self.seen is not None:
            for name, value in zip(("lo", "hi"), self.seen, strict=True):
                getattr(self, name).lerp_(value, share)
            self.seen = None


def fake_weight(weight: Tensor) -> Tensor:
    """A weight `[out, ...]` rounded to 255 steps an output channel; gradients pass."""
    scale = (weight.detach().flatten(1).abs().amax(1).float() / 127).clamp(min=1e-12)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -127, 127).to(weight.dtype)


def _before(layer: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    its: Range = getattr(layer, _CHILD)
    if its.quantizing:
        layer.__dict__["weight"] = fake_weight(layer._parameters["weight"])  # what `layer.weight` is until `_after`
    return (its(args[0]), *args[1:])


def _after(layer: Any, args: Any, output: Any) -> None:
    layer.__dict__.pop("weight", None)


def layers(network: nn.Module) -> dict[str, nn.Module]:
    """Path -> layer of all that int8 is for: convolutions and linear layers."""
    kinds = (nn.Conv2d, nn.Linear)
    return {path: layer for path, layer in network.named_modules() if isinstance(layer, kinds) and "weight" in layer._parameters}


def ranges(network: nn.Module) -> dict[str, Range]:
    """Path of a layer -> the range of its input."""
    return {path.rpartition(".")[0]: each for path, each in network.named_modules() if isinstance(each, Range)}


def attach(network: nn.Module) -> None:
    """Give every layer a range, in place; nothing is quantized yet."""
    for layer in layers(network).values():
        setattr(layer, _CHILD, Range(layer.weight).train(layer.training))  # type: ignore[arg-type]
        layer.register_forward_pre_hook(_before)
        layer.register_forward_hook(_after, always_call=True)


def detach(network: nn.Module) -> None:
    """Leave the plain network with its plain weights, in place."""
    for layer in layers(network).values():
        if hasattr(layer, _CHILD):
            delattr(layer, _CHILD)
            for hooks, ours in ((layer._forward_pre_hooks, _before), (layer._forward_hooks, _after)):
                for key in [key for key, hook in hooks.items() if hook is ours]:
                    del hooks[key]
                    layer._forward_hooks_always_called.pop(key, None)


def quantize_only(network: nn.Module, chosen: Collection[str]) -> None:
    """From now on these layers are quantized, and no others."""
    for path, each in ranges(network).items():
        each.quantizing = path in chosen


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    was = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in was.items():
            module.training = mode


@torch.no_grad()
def watch(network: nn.Module, batches: Sequence[Tensor], what: str = "ranges") -> list[str]:
    """Set the ranges to what the batches show; returns the layers that were called, in order."""
    network_ranges = ranges(network)
    order: list[str] = []
    hooks = [
        network.get_submodule(path).register_forward_pre_hook(lambda layer, args, path=path: order.append(path)) for path in network_ranges
    ]
    for each in network_ranges.values():
        each.watching, each.seen = True, None
    try:
        with _evaluating(network):
            for batch in tracked(batches, len(batches), what):
                network(batch.to(next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        for each in network_ranges.values():
            each.watching = False
            each.take(1.0)
    return list(dict.fromkeys(order))


def step(network: nn.Module) -> None:
    """After an optimizer step: every range moves towards what the step has seen."""
    for each in ranges(network).values():
        each.take(_TOWARDS)

"""Batch norm, activation and gate of an EfficientNet block, computed a second time in the backward pass instead of kept for it.

Between two convolutions of a block stand a batch norm, an activation and a gate: cheap to compute, and each keeps a whole map for the
backward pass. Of a stretch [norm, activation, gate, convolution] only what enters it is kept here, the output of the convolution before.
When the backward pass comes to it, the stretch is run again up to the input of its convolution, which itself is not: `checkpoint` stops
once it has what it lacked. The same numbers in the same order, so the gradients are equal to the last bit, and a batch norm that is
run again leaves its running statistics alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def _without_traces(stretch: tuple[nn.Module, ...]) -> Iterator[None]:
    """Inside, what the modules learn in a forward pass (running statistics) goes into copies that are thrown away."""
    parts = [part for module in stretch for part in module.modules() if part.training]
    buffers = [(part, name, buffer) for part in parts for name, buffer in part.named_buffers(recurse=False)]
    try:
        for part, name, buffer in buffers:
            setattr(part, name, buffer.clone())
        yield
    finally:
        for part, name, buffer in buffers:
            setattr(part, name, buffer)


def _run(stretch: tuple[nn.Module, ...], x: torch.Tensor) -> torch.Tensor:
    for module in stretch:
        x = module(x)
    return x


def _again(x: torch.Tensor, *stretch: nn.Module) -> torch.Tensor:
    """The modules in a row; for the backward pass only x is kept."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _run(stretch, x)
    return checkpoint(partial(_run, stretch), x, use_reentrant=False, context_fn=lambda: (nullcontext(), _without_traces(stretch)))


class _Residual:
    """What the blocks of timm do around their stretches."""

    def _opened(self: Any, x: torch.Tensor, first: nn.Module) -> torch.Tensor:
        """Up to the first convolution, inclusive."""
        return first(x) if self.conv_s2d is None else _again(self.conv_s2d(x), self.bn_s2d, first)

    def _closed(self: Any, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return self.drop_path(x) + shortcut if self.has_skip else x


class RecomputedInvertedResidual(_Residual, InvertedResidual):
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        inside = _again(self._opened(x, self.conv_pw), self.bn1, self.conv_dw)
        return self._closed(self.bn3(_again(inside, self.bn2, self.aa, self.se, self.conv_pwl)), x)


class RecomputedDepthwiseSeparableConv(_Residual, DepthwiseSeparableConv):
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self._closed(self.bn2(_again(self._opened(x, self.conv_dw), self.bn1, self.aa, self.se, self.conv_pw)), x)


class RecomputedEdgeResidual(_Residual, EdgeResidual):
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self._closed(self.bn2(_again(self.conv_exp(x), self.bn1, self.aa, self.se, self.conv_pwl)), x)


_BLOCKS: dict[type[nn.Module], type[nn.Module]] = {
    InvertedResidual: RecomputedInvertedResidual,
    DepthwiseSeparableConv: RecomputedDepthwiseSeparableConv,
    EdgeResidual: RecomputedEdgeResidual,
}


def _recomputable(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module) in _BLOCKS]


def check_recomputable(model: nn.Module) -> None:
    """Raises ValueError where a network has nothing for `recomputed`."""
    if not _recomputable(model):
        raise ValueError("recompute: the model has no EfficientNet block, in which alone something can be computed again; leave it out")


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Inside, the EfficientNet blocks of `model` compute again in the backward pass what is cheap; afterwards they are what they were.

    Blocks of another class are left alone, those with conditional convolutions among them, whose weights come from the picture.
    """
    changed = [(module, type(module)) for module in _recomputable(model)]
    for module, plain in changed:
        module.__class__ = _BLOCKS[plain]
    try:
        yield
    finally:
        for module, plain in changed:
            module.__class__ = plain

"""Layers made narrower in place: what is left of them for some of their channels, weights taken over.

What a gate's `narrow` is made of (see `registry.ATTENTION`), and what pruning and the loading of a pruned network do to everything else.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import CondConv2d
from torch import nn


@torch.no_grad()
def narrow_parameter(module: Any, name: str, keep: Sequence[int], dim: int) -> None:
    """A parameter or buffer, to some of its places along a dimension; nothing where the module has none of that name."""
    held = getattr(module, name, None)
    if held is None:
        return
    left = held.detach().index_select(dim, torch.tensor(keep, device=held.device))
    setattr(module, name, nn.Parameter(left, requires_grad=held.requires_grad) if isinstance(held, nn.Parameter) else left)


def _narrow_experts(layer: CondConv2d, keep: Sequence[int], dim: int) -> None:
    """Of a conditional convolution, whose parameter is a flattened kernel an expert."""
    kernels = layer.weight.detach().view(layer.num_experts, *layer.weight_shape)
    kernels = kernels.index_select(dim + 1, torch.tensor(keep, device=kernels.device))
    layer.weight_shape = tuple(kernels.shape[1:])
    layer.weight = nn.Parameter(kernels.flatten(1), requires_grad=layer.weight.requires_grad)


def narrow_in(layer: Any, keep: Sequence[int]) -> None:
    """A convolution (of one group) or linear layer that reads only these channels, in this order."""
    if isinstance(layer, CondConv2d):
        _narrow_experts(layer, keep, 1)
    else:
        narrow_parameter(layer, "weight", keep, 1)
    setattr(layer, "in_features" if isinstance(layer, nn.Linear) else "in_channels", len(keep))


def narrow_out(layer: Any, keep: Sequence[int]) -> None:
    """A convolution or linear layer that makes only these channels."""
    if isinstance(layer, CondConv2d):
        _narrow_experts(layer, keep, 0)
        narrow_parameter(layer, "bias", keep, 1)
    else:
        narrow_parameter(layer, "weight", keep, 0)
        narrow_parameter(layer, "bias", keep, 0)
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(keep))


def narrow_each(layer: Any, keep: Sequence[int]) -> None:
    """A norm, or a convolution in groups, that works channel by channel: on only these, which must be whole groups of the convolution."""
    if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
        for name in ("weight", "bias", "running_mean", "running_var"):
            narrow_parameter(layer, name, keep, 0)
        setattr(layer, "num_channels" if isinstance(layer, nn.GroupNorm) else "num_features", len(keep))
        return
    width = layer.in_channels // layer.groups
    narrow_out(layer, keep)
    layer.in_channels, layer.groups = len(keep), len(keep) // width

"""Batch norms folded into the convolutions before them: what every runtime does with a network for use, done for PyTorch.

y = g (w * x - m) / s + b is one convolution with the weight w g / s and the bias b - m g / s. Which convolution a norm reads is seen in one
pass, since no module says so; and the folded network is compared with the one it was made from before anybody gets it.
"""

import copy
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_PLAIN = (nn.Conv2d, Conv2dSame)  # another class may have no use for a bias, such as the narrow convolutions inside of gates
_SAME = 1e-3  # of the largest number said: CBAM makes more of rounding than others


def _pairs(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """(path of a convolution, path of the batch norm that reads its output)."""
    said: dict[int, tuple[str, Tensor]] = {}  # the tensors are held: no id is given out twice
    found: list[tuple[str, str]] = []

    def convolved(path: str) -> Any:
        return lambda module, args, output: said.__setitem__(id(output), (path, output))

    def normed(path: str) -> Any:
        return lambda module, args: found.append((said[id(args[0])][0], path)) if id(args[0]) in said else None

    hooks = []
    for path, module in network.named_modules():
        if type(module) in _PLAIN:
            hooks.append(module.register_forward_hook(convolved(path)))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(normed(path)))
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


@torch.no_grad()
def folded(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy for use, in channels_last, whose batch norms are in the convolutions.

    Args:
        network: of one tensor to one tensor; it stays as it is.
        example: a tensor that it takes, [B, C, H, W].

    Raises:
        ValueError: the copy says something else.
    """
    wanted = network.eval()(example)
    copied = copy.deepcopy(network).eval()
    for conv, norm in _pairs(copied, example):
        module: Any = copied.get_submodule(norm)
        _put(copied, conv, fuse_conv_bn_eval(copied.get_submodule(conv), module))  # type: ignore[type-var]
        _put(copied, norm, nn.Sequential(module.drop, module.act) if isinstance(module, BatchNormAct2d) else nn.Identity())
    copied = copied.to(memory_format=torch.channels_last)
    apart = ((copied(example) - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item()
    if not apart <= _SAME:
        raise ValueError(f"its batch norms cannot be folded: outputs differ by {apart:.1e} of the largest, {_SAME:g} may be")
    return copied

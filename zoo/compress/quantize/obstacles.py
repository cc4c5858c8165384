"""Whether int8 suits a network, from the operators that it runs: what stands between two int8 layers and is computed in float costs the way
to float and back, which at one picture at a time is most of what the int8 layers save (docs/quantize.md).
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...backbones.slots import slots

_LAYERS = {"convolution", "addmm", "mm", "bmm"}
_SMOOTH = {"silu", "silu_", "hardswish", "hardswish_", "gelu", "mish", "mish_"}
_MANY = 1 / 4  # as many as layers


@dataclass(frozen=True)
class Obstacles:
    """What int8 is slowed by.

    Args:
        layers: convolutions and matrix products that the network runs.
        smooth: SiLU, h-swish and their like: in int8 they are several operators, or float.
        gates: attention gates, whose means, sigmoids and products are small operators each.
    """

    layers: int
    smooth: int
    gates: int

    @property
    def many(self) -> bool:
        """Whether int8 gained far less than without them where that was measured, one picture at a time (docs/results/efficiency.md)."""
        return self.smooth > self.layers * _MANY


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def obstacles(network: nn.Module, example: Tensor) -> Obstacles:
    """Run it once, in evaluation mode, and count.

    Args:
        network: `[B, C, H, W]` -> anything.
        example: one row.
    """
    with _Counting() as counting:
        network.eval()(example)
    found = counting.found
    gates = sum(gate is not None for gate in slots(network).values())
    return Obstacles(sum(found[name] for name in _LAYERS), sum(found[name] for name in _SMOOTH), gates)

"""What a network costs on paper: the multiplications of one picture."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .slots import input_size


def count_macs(model: nn.Module, size: tuple[int, int, int] | None = None) -> int:
    """Multiplications of convolutions and matrices for one picture [C, H, W], of the network's own size by default; nothing is computed."""
    return macs_of_shapes(copy.deepcopy(model).to("meta"), size or input_size(model))


@torch.no_grad()
def macs_of_shapes(empty: nn.Module, size: tuple[int, int, int]) -> int:
    """The same of a network on the meta device that nobody else needs: it goes into evaluation mode."""
    dtype = next(empty.parameters()).dtype
    with FlopCounterMode(display=False) as counter:
        empty.eval()(torch.empty(1, *size, device="meta", dtype=dtype))
    return counter.get_total_flops() // 2

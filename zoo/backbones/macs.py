"""What a network costs on paper: the multiplications of one picture."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, size: tuple[int, int, int]) -> int:
    """Multiplications of convolutions and matrices for one picture [C, H, W]; nothing is computed (on the meta device)."""
    empty = copy.deepcopy(model).to("meta").eval()
    dtype = next(empty.parameters()).dtype
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        empty(torch.empty(1, *size, device="meta", dtype=dtype))
    return counter.get_total_flops() // 2

"""Group norm that also takes a single value a group."""

import torch
from torch import nn


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` that lets a group of one value pass (batch 1, a channel a group, a 1x1 map): [B, C, ...] -> the same shape.

    torch raises there. One value is its own mean, so that the result is the bias.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

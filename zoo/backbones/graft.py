"""A new gate that takes over from an old one: y = old(x) + share * (new(x) - old(x)), the share going from 0 to 1 while the network trains.

At 0 the network is what it was before the swap, at 1 it is the network with the new gate, each to the last bit, and the old one can go.
"""

from collections.abc import Iterator

import torch
from torch import nn


class HandOver(nn.Module):
    """Old and new gate side by side: [B, C, H, W] -> the same shape.

    Args:
        old: what sits in the slot; `nn.Identity` where there is no gate.
        new: what is to sit there.
    """

    share: torch.Tensor

    def __init__(self, old: nn.Module, new: nn.Module):
        super().__init__()
        self.old, self.new = old, new
        self.training = new.training
        example = next(iter([*new.parameters(), *old.parameters()]), torch.empty(0))
        self.register_buffer("share", torch.zeros((), device=example.device))  # of the new gate; saved with the weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        old = self.old(x)
        return torch.lerp(old, self.new(x).to(old.dtype), self.share.to(old.dtype))  # exact at both ends, unlike the equation


def hand_overs(model: nn.Module) -> Iterator[tuple[str, HandOver]]:
    """(path, module) of every slot in which a gate is being handed over; an earlier hand-over inside one is left as it is."""
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if isinstance(module, HandOver) and not path.startswith(inside):
            yield path, module
            inside = (*inside, f"{path}." if path else "")


def set_share(model: nn.Module, share: float) -> None:
    """How much of the new gates is in use, from 0 to 1; the loop says so at every step."""
    for _, module in hand_overs(model):
        module.share.fill_(share)

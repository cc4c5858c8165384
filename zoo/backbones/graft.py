"""A new gate that takes over from an old one: y = old(x) + share * (gain * new(x) - old(x)), the share going from 0 to 1 in training.

At 0 the network is what it was before the swap, to the last bit; at 1 the old gate says nothing any more, and can go.

What a gate has learned is above all how loud each channel should be, and a new one does not know it. So where a convolution reads what the
slot gives, the new gate is measured against the old one on what passes: gain[c] = <old(x), new(x)> / <new(x), new(x)>, the least squares
fit, the mean over the first 16 batches. From then on it stays: a gain that went on following would take back whatever the new gate learns,
and the two would run away from each other, by orders of magnitude. In the end the gain goes into the convolution's weights,
and nothing is left of it.
"""

from collections.abc import Iterator

import torch
from torch import nn


@torch.fx.wrap  # one node, training or not: tracing compares the two
def _matched(
    old: torch.Tensor, new: torch.Tensor, gain: torch.Tensor, seen: torch.Tensor, share: torch.Tensor, training: bool
) -> torch.Tensor:
    """The new gate's output as loud as the old one's, in each channel; in the first batches of a training its gain is measured."""
    if training:
        with torch.no_grad():
            wide, wanted = new.float(), old.float()
            power = (wide * wide).sum((0, 2, 3))
            fit = (wide * wanted).sum((0, 2, 3)) / power.clamp(min=1e-12)
            # a channel that is dead in this batch says nothing about how loud it should be
            says = (power > 1e-12) & (seen < 16) & (share < 1)
            seen.add_(says)
            gain.add_(torch.where(says, (fit - gain) / seen, 0).to(gain.dtype))
    return new * gain.to(new.dtype).view(1, -1, 1, 1)


class HandOver(nn.Module):
    """Old and new gate side by side: [B, C, H, W] -> the same shape.

    Args:
        old: what sits in the slot; `nn.Identity` where there is no gate.
        new: what is to sit there.
        channels: C, where a convolution behind the slot can take the gain over in the end; None: no gain.
    """

    share: torch.Tensor
    gain: torch.Tensor | None
    seen: torch.Tensor | None

    def __init__(self, old: nn.Module, new: nn.Module, channels: int | None = None):
        super().__init__()
        self.old, self.new = old, new
        self.training = new.training
        example = next(iter([*new.parameters(), *old.parameters()]), torch.empty(0))
        self.register_buffer("share", torch.zeros((), device=example.device))  # of the new gate; saved with the weights
        self.register_buffer("gain", None if channels is None else torch.ones(channels, device=example.device))
        self.register_buffer("seen", None if channels is None else torch.zeros(channels, dtype=torch.long, device=example.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        old = self.old(x)
        new = self.new(x).to(old.dtype)
        gain, seen = self.gain, self.seen
        if gain is not None and seen is not None:
            new = _matched(old, new, gain, seen, self.share, self.training)
        return torch.lerp(old, new, self.share.to(old.dtype))  # exact at both ends, unlike the equation


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

"""Parts of a network that do not learn, for good or until an epoch.

What is frozen has no gradient and costs no backward pass, and is in eval mode: its batch norms keep their statistics and nothing in it is
dropped. Whether it is frozen is a function of the epoch alone, so a resumed run thaws where one that was not stopped does.

    trunk               everything but the classifier
    head                the classifier
    stem, blocks.0, ... modules by name; blocks.0-3 are four
"""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from registry import nearest

from ..backbones.graft import hand_overs


def _under(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _words(parts: Iterable[str]) -> list[str]:
    """["blocks.0-2"] -> ["blocks.0", "blocks.1", "blocks.2"]."""
    found: list[str] = []
    for part in parts:
        row = re.fullmatch(r"(.+\.)(\d+)-(\d+)", part)
        found += [f"{row[1]}{number}" for number in range(int(row[2]), int(row[3]) + 1)] if row else [part]
    return found


class Frozen:
    """Which parameters and modules of a network are frozen, and until when.

    Args:
        module: the network.
        parts: "trunk", "head", "stem", and names of modules.

    Raises:
        ValueError: a part that the network does not have; the nearest are offered.
    """

    def __init__(self, module: Any, parts: Iterable[str]):
        self.parts = tuple(parts)
        self.until: int | None = None
        """The first epoch, from 0, in which the parts learn; None: never."""
        self.asleep = True
        names = [name for name, _ in module.named_parameters()]
        head = (getattr(module, "pretrained_cfg", None) or {}).get("classifier") or ()
        heads = [head] if isinstance(head, str) else list(head)
        self.names: set[str] = set()
        for part in _words(self.parts):
            stem = module.group_matcher()["stem"] if part == "stem" and not hasattr(module, "stem") else None  # timm's own word for it
            if part in ("trunk", "head"):
                under = {name for name in names if any(_under(name, each) for each in heads)}
                found = under if part == "head" else set(names) - under
            elif stem:
                found = {name for name in names if any(re.match(each, name) for each in ([stem] if isinstance(stem, str) else stem))}
            else:
                found = {name for name in names if _under(name, part)}
            if not found:
                known = dict.fromkeys([*(".".join(name.split(".")[:2]) for name in names), *(name.split(".")[0] for name in names)])
                raise ValueError(f"freeze: {part!r} is no part of this network; {nearest(part, ['trunk', 'head', 'stem', 'bn', *known])}")
            self.names |= found
        if self.names == set(names):
            raise ValueError(f"freeze: {', '.join(self.parts)} is all there is; nothing would learn")
        awake = set(names) - self.names
        self.modules = {  # all that holds frozen parameters alone, and what is inside, such as an activation or a dropout
            path
            for path, _ in module.named_modules()
            if path and any(_under(name, path) for name in self.names) and not any(_under(name, path) for name in awake)
        }

    def plan(self, module: nn.Module, until: int | None) -> None:
        """Say when the parts thaw, before the optimizer is made: it holds what is going to learn.

        Raises:
            ValueError: a gate that is to take over would never learn.
        """
        if until is None and (grafted := [path for path, _ in hand_overs(module) if self.holds_gate(path)]):
            offer = "thaw it with unfreeze_at, or take a network without a new gate, such as effnet_none_lite0"
            raise ValueError(f"freeze: the new gate in {grafted[0]} is to take over and would never learn; {offer}")
        self.until = until
        if until is None:
            self._set(module, asleep=True)

    def holds_gate(self, path: str) -> bool:
        return any(_under(name, path) for name in self.names)

    def at(self, module: nn.Module, epoch: int) -> bool:
        """Freeze or thaw for an epoch, counted from 0; whether anything changed."""
        return self._set(module, asleep=self.until is None or epoch < self.until)

    def _set(self, module: nn.Module, *, asleep: bool) -> bool:
        changed = False
        for name, parameter in module.named_parameters():
            if name in self.names and parameter.requires_grad is asleep:
                parameter.requires_grad_(not asleep)
                parameter.grad = None
                changed = True
        self.asleep = asleep
        return changed

    def rest(self, module: nn.Module) -> None:
        """Put what is frozen into eval mode."""
        if self.asleep:
            for path, part in module.named_modules():
                if any(_under(path, each) for each in self.modules):
                    part.training = False

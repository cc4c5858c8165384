"""Optimizer and learning rate, by name, from timm."""

from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import nn

from registry import nearest

from .config import TrainConfig

_FUSED = ("adam", "adamw")  # torch's own in one kernel, three times as fast on a CPU
SCHEDULES = ("cosine", "tanh", "step", "constant")


def undecayed(module: nn.Module) -> set[str]:
    """Full names of the parameters that some module inside asks to leave out of weight decay."""
    names: set[str] = set()
    for path, part in module.named_modules():
        own = getattr(part, "no_weight_decay", None)  # timm's convention: a method that most modules do not have
        if own is not None:
            names.update(f"{path}.{name}" if path else name for name in own())
    return names


def layer_scales(module: nn.Module, decay: float) -> dict[str, float]:
    """Factors of the learning rate of all parameters of timm's networks inside, by full name: 1 for the last layer, `decay` for the one
    before it, and so on, in the layers of the network's own `group_matcher`.

    Raises:
        ValueError: there is no such network.
    """
    found: dict[str, float] = {}
    inside: tuple[str, ...] = ()
    for path, part in module.named_modules():
        matcher = getattr(part, "group_matcher", None)
        if matcher is None or path.startswith(inside):
            continue
        before = f"{path}." if path else ""
        layers = group_parameters(part, matcher(coarse=False), reverse=True)
        found |= {before + name: decay ** (max(layers.values()) - layer) for name, layer in layers.items()}
        inside = (*inside, before)
    if not found:
        raise ValueError(f"layer_decay: {type(module).__name__} does not say what its layers are, as timm's networks do")
    return found


def create_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """timm's optimizer over what is trainable; biases, norms and `no_weight_decay()` parameters without decay.

    Raises:
        ValueError: no such optimizer, or nothing to train.
    """
    assert config.lr is not None  # `fit` has asked the task
    known = [str(name) for name in list_optimizers()]
    if config.opt not in known:
        raise ValueError(f"unknown optimizer {config.opt!r}; {nearest(config.opt, known)}")
    spared, rates = undecayed(module), dict(config.part_lr or {})
    layers = layer_scales(module, config.layer_decay) if config.layer_decay is not None else {}
    found: dict[tuple[float, float], list[nn.Parameter]] = {(1.0, decay): [] for decay in (config.weight_decay, 0.0)}
    used = set()
    for name, parameter in module.named_parameters():
        part = max((part for part in rates if name == part or name.startswith(f"{part}.")), key=len, default="")
        used.add(part)
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim <= 1 or name in spared else config.weight_decay
            scale = layers.get(name, 1.0) * (rates[part] / config.lr if part else 1.0)
            found.setdefault((scale, decay), []).append(parameter)
    if unused := sorted(rates.keys() - used):
        parts = sorted({".".join(name.split(".")[:2]) for name, _ in module.named_parameters()})
        raise ValueError(f"part_lr: no parameter's name begins with {unused[0]!r}; {nearest(unused[0], parts)}")
    groups: list[dict[str, Any]] = [
        {"params": held, "weight_decay": decay, **({"lr_scale": scale} if scale != 1 else {})}  # timm's schedulers know it
        for (scale, decay), held in found.items()
        if held
    ]
    if not groups:
        raise ValueError("nothing to train: every parameter is frozen")
    fused: dict[str, Any] = {"fused": True} if config.opt in _FUSED else {}
    return create_optimizer_v2(groups, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay, **fused)


class Schedule:
    """The learning rate as a function of the step alone: nothing to save."""

    def __init__(self, optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int):
        if config.sched not in SCHEDULES:
            raise ValueError(f"unknown schedule {config.sched!r}; known: {', '.join(SCHEDULES)}")
        assert config.lr is not None
        warmup = int(steps * config.warmup)
        self._scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=config.sched,
            num_epochs=max(1, steps - warmup),  # timm puts the warm-up in front of it
            updates_per_epoch=1,
            step_on_epochs=False,
            warmup_epochs=warmup,
            warmup_lr=config.lr * 0.04,
            warmup_prefix=True,
            cooldown_epochs=0,
            decay_epochs=max(1, (steps - warmup) // 3),
            min_lr=config.lr * 1e-3,
        )

    def set(self, step: int) -> None:
        """Set the learning rate of step `step` (0-based)."""
        self._scheduler.step_update(step)

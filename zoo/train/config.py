"""How to train: everything that the loop needs and no task knows.

The defaults are made for small data from scratch: every gate learns with them at the first try (tests/train/test_recipe.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

PRECISIONS = ("fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of a run.

    Args:
        out: the run directory.
        epochs: passes over the training rows.
        batch_size: rows a process and a micro-batch; None leaves it to the task (32 for a classifier, 64 for a joint embedding).
        accumulate: micro-batches in one optimizer step.
        lr: the highest learning rate, reached at the end of the warm-up; None leaves it to the task (2e-3 for a classifier, 1e-3 for a
            joint embedding).
        part_lr: highest learning rates of parts of the model, by the beginning of their parameters' names, as {"towers.image": 1e-4}.
        opt: any optimizer name of timm.
        sched: "cosine", "tanh", "step" or "constant", timm's.
        warmup: share of all steps in which the learning rate rises.
        weight_decay: not applied to biases, norms, and what a module's `no_weight_decay()` names.
        clip_grad: greatest norm of the gradient; None does not clip.
        ema: decay of the running average of the weights, which is then what is evaluated and saved; None keeps none.
        hand_over: of a network with grafted gates: share of all steps over which the new gates take over from the old ones.
        sync_bn: batch norms take their statistics over the rows of all processes; nothing to do in one process.
        shard: modalities whose towers are cut into shards, one a process (FSDP2), for text towers that are too large to be kept in each.
            Changes no result but for rounding.
        precision: "fp32", "bf16" or "fp16".
        device: "auto", "cpu" or "cuda".
        seed: decides the order of the rows, the augmentation, and what is dropped.
        workers: processes that read rows; None takes none on a CPU and four at most on a GPU. Changes no result.
        checkpoint_every: steps between checkpoints; None writes one an epoch. Changes no result.
        resume: go on where the run in `out` stopped.
        overwrite: throw away the run that `out` holds.
    """

    out: str | None = None
    epochs: int = 8
    batch_size: int | None = None
    accumulate: int = 1
    lr: float | None = None
    part_lr: Mapping[str, float] | None = None
    opt: str = "adamw"
    sched: str = "cosine"
    warmup: float = 0.2
    weight_decay: float = 0.02
    clip_grad: float | None = None
    ema: float | None = None
    hand_over: float = 0.5
    sync_bn: bool = False
    shard: Sequence[str] = ()
    precision: str = "fp32"
    device: str = "auto"
    seed: int = 0
    workers: int | None = None
    checkpoint_every: int | None = None
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.out == "":
            raise ValueError("out: expected a directory, got ''; None keeps nothing")
        for name in ("epochs", "accumulate", "batch_size", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        for name in ("lr", "clip_grad"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a number above 0, got {value!r}")
        for part, value in (self.part_lr or {}).items():
            if not 0 < value < math.inf:
                raise ValueError(f"part_lr: expected numbers above 0, got {value!r} for {part}")
        if self.seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {self.seed}")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers: expected 0 or more, got {self.workers}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: expected a share of all steps in [0, 1), got {self.warmup}")
        if not 0 <= self.hand_over <= 1:
            raise ValueError(f"hand_over: expected a share of all steps in [0, 1], got {self.hand_over}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema: expected a decay between 0 and 1, such as 0.999, got {self.ema}")
        for name, known in (("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if isinstance(self.shard, str):
            raise ValueError(f"shard: expected a list of modalities, got {self.shard!r}")
        if self.shard and self.precision == "fp16":
            raise ValueError("shard: the loss of fp16 is scaled by what all gradients say, which shards do not; give bf16 or fp32")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite contradict each other: give one")
        if (self.resume or self.overwrite) and not self.out:
            raise ValueError("resume and overwrite are about the run in `out`: give out as well")

    def settings(self) -> dict[str, Any]:
        """What decides the result, as JSON: a run can only be resumed with the same."""
        free = {"out", "workers", "checkpoint_every", "resume", "overwrite", "device", "shard"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in free}

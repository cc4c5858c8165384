"""How to train: everything that the loop needs and no task knows.

The defaults are made for small data from scratch: every gate learns with them at the first try (tests/train/test_recipe.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

PRECISIONS = ("fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")
BROKEN = ("raise", "skip", "replace")  # see broken.py
POLICIES = ("stop", "skip")
TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")
SAMPLES = ("all", "balanced")


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
        layer_decay: factor of the learning rate from each layer of a picture network to the one before it, timm's; None: all the same.
        opt: any optimizer name of timm.
        sched: "cosine", "tanh", "step" or "constant", timm's.
        warmup: share of all steps in which the learning rate rises.
        weight_decay: not applied to biases, norms, and what a module's `no_weight_decay()` names.
        clip_grad: greatest norm of the gradient; None does not clip.
        ema: decay of the running average of the weights, which is then what is evaluated and saved; None keeps none.
        unfreeze_at: the epoch, from 1, from which the parts learn that the task has frozen; None: they never do.
        hand_over: of a network with grafted gates: share of all steps over which the new gates take over from the old ones.
        sync_bn: batch norms take their statistics over the rows of all processes; nothing to do in one process.
        shard: modalities whose towers are cut into shards, one a process (FSDP2), for text towers that are too large to be kept in each.
            Changes no result but for rounding.
        precision: "fp32", "bf16" or "fp16".
        device: "auto", "cpu" or "cuda".
        sample: "all": every row once an epoch; "balanced": as many rows an epoch, every class as often, drawn with replacement.
        patience: stop after so many epochs in which the evaluation was no better than the best before; None: never.
        keep_best: the model of the best epoch is kept in `out`/best, a run itself; always so with `patience`.
        seed: decides the order of the rows, the augmentation, and what is dropped.
        broken: what becomes of a row whose picture can not be read: "raise" stops, "skip" leaves it out, "replace" lets another stand in.
        compile: the networks go through torch.compile: pays where a run is long, since the first steps take minutes; needs a C++ compiler.
        recompute: norms, activations and gates of EfficientNet blocks are computed again in the backward pass instead of kept for it: about
            40 % of the memory for somewhat more time. Changes no result.
        workers: processes that read rows; None takes none on a CPU and four at most on a GPU. Changes no result.
        checkpoint_every: steps between checkpoints; None writes one an epoch. Changes no result.
        nonfinite: what becomes of a step whose loss or gradients are no numbers: "stop" the run, or "skip" the step.
        deterministic: on a GPU, take the algorithms that give the same bits every time, at a price (docs/reliability.md).
        log: where the curves go beside metrics.jsonl: names of TRACKERS, or objects of Accelerate's `GeneralTracker`.
        resume: go on where the run in `out` stopped.
        overwrite: throw away the run that `out` holds.
    """

    out: str | None = None
    epochs: int = 8
    batch_size: int | None = None
    accumulate: int = 1
    lr: float | None = None
    part_lr: Mapping[str, float] | None = None
    layer_decay: float | None = None
    opt: str = "adamw"
    sched: str = "cosine"
    warmup: float = 0.2
    weight_decay: float = 0.02
    clip_grad: float | None = None
    ema: float | None = None
    unfreeze_at: int | None = None
    hand_over: float = 0.5
    sync_bn: bool = False
    shard: Sequence[str] = ()
    precision: str = "fp32"
    device: str = "auto"
    sample: str = "all"
    patience: int | None = None
    keep_best: bool = False
    seed: int = 0
    broken: str = "raise"
    compile: bool = False
    recompute: bool = False
    workers: int | None = None
    checkpoint_every: int | None = None
    nonfinite: str = "stop"
    deterministic: bool = False
    log: Sequence[Any] = ()
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.out == "":
            raise ValueError("out: expected a directory, got ''; None keeps nothing")
        for name in ("epochs", "accumulate", "batch_size", "checkpoint_every", "patience"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        for name in ("lr", "clip_grad"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a number above 0, got {value!r}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay: expected a factor in (0, 1], such as 0.75, got {self.layer_decay}")
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
        known_words = {"precision": PRECISIONS, "device": DEVICES, "sample": SAMPLES, "broken": BROKEN, "nonfinite": POLICIES}
        for name, known in known_words.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.unfreeze_at is not None and not 2 <= self.unfreeze_at <= self.epochs:
            raise ValueError(f"unfreeze_at: expected an epoch between 2 and {self.epochs}, the last, got {self.unfreeze_at}")
        if self.compile and self.recompute:
            raise ValueError("compile and recompute: give one; the compiler decides by itself what is kept and what is computed again")
        if self.sync_bn and self.recompute:
            raise ValueError("sync_bn and recompute: give one; what is computed again would wait for the other processes again")
        for each in [self.log] if isinstance(self.log, str) else self.log:
            if isinstance(each, str) and (each not in TRACKERS or each is self.log):
                raise ValueError(f"log: expected a list of {', '.join(TRACKERS)}, got {each!r}")
        if "tensorboard" in self.log and not self.out:
            raise ValueError("log: tensorboard writes into the run directory: give out as well")
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
        free = {"out", "workers", "checkpoint_every", "resume", "overwrite", "device", "nonfinite", "deterministic", "recompute", "log"}
        free |= {"keep_best", "shard"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in free}

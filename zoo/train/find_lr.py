"""Which learning rate to begin with: a few steps on the real rows while it rises from next to nothing to far too much (a range test).

The suggestion is where the loss falls most steeply. The task is as it was afterwards. Paper: Smith, arXiv 1506.01186.
"""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from timm.utils import unwrap_model

from ..datasets.data import Row, as_split
from ..progress import progress
from .config import TrainConfig
from .engine import Engine
from .loader import PreparedRows, load
from .measure import check_columns
from .optim import create_optimizer
from .randomness import seed_everything
from .sampler import Plan
from .task import Task

_DIVERGED = 4.0  # times the smallest loss
_LEAST = 10  # steps that say anything


@dataclass(frozen=True)
class LrCurve:
    """What was measured.

    Args:
        lr: learning rate of each step.
        loss: the loss of each step.
        smooth: the same, averaged over the last ten or so.
        suggestion: where it falls most steeply; None where it never fell.
    """

    lr: list[float]
    loss: list[float]
    smooth: list[float]
    suggestion: float | None

    def save(self, out: Path) -> None:
        """Write `find_lr.json` and `find_lr.png` into a directory; nothing else in it is touched."""
        from matplotlib.figure import Figure  # not on the way of who only trains

        out.mkdir(parents=True, exist_ok=True)
        (out / "find_lr.json").write_text(json.dumps(asdict(self), indent=2) + "\n")
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.lr, self.loss, alpha=0.3)
        axes.plot(self.lr, self.smooth)
        if self.suggestion:
            axes.axvline(self.suggestion, linestyle="--", color="black", label=f"{self.suggestion:.1e}")
            axes.legend()
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        figure.savefig(out / "find_lr.png")


def steepest(lr: list[float], smooth: list[float]) -> float | None:
    """The learning rate at which the smoothed loss falls most steeply on its way to its minimum; None where it does not fall."""
    bottom = int(np.argmin(smooth))
    if bottom < 2:
        return None
    slope = np.gradient(smooth[: bottom + 1], np.log(lr[: bottom + 1]))
    return lr[int(np.argmin(slope))] if slope.min() < 0 else None


def find_lr(
    task: Task,
    train: Sequence[Row],
    config: TrainConfig | None = None,
    *,
    steps: int = 100,
    lowest: float = 1e-6,
    highest: float = 1.0,
) -> LrCurve:
    """Measure the loss while the learning rate rises exponentially from `lowest` to `highest`, or until it is beyond repair.

    Args:
        task: as for `fit`; its weights are as they were afterwards.
        train: rows to learn from.
        config: how; epochs, schedule and warm-up say nothing here.
        steps: how many at the most.

    Raises:
        ValueError: the range is none, or the data is not as it must be.
    """
    if not (0 < lowest < highest and steps >= _LEAST):
        raise ValueError(f"find_lr: expected 0 < lowest < highest and {_LEAST} steps or more, got {lowest}, {highest} and {steps}")
    config = config or TrainConfig()
    config = replace(config, batch_size=config.batch_size or task.default_batch_size, lr=lowest)
    split = as_split(train)
    check_columns(task, split, "train")
    engine = Engine(config.device, config.precision)
    engine.place(task)
    module = unwrap_model(task.trainable_module)
    kept, learned = copy.deepcopy(module.state_dict()), {name: each.requires_grad for name, each in module.named_parameters()}
    try:
        assert config.batch_size is not None
        plan = Plan(len(split), config.batch_size, 1, config.accumulate, config.seed)
        plan = replace(plan, epochs=math.ceil(steps / plan.steps_per_epoch))
        task.plan_freezing(config.unfreeze_at)
        task.begin_epoch(0)
        task.begin(config, 1)
        task.train()
        optimizer = create_optimizer(module, config)
        batches = iter(load(PreparedRows(split, task.prepare(True), config.seed), plan, task.collate, workers=0, pin=False))
        lrs: list[float] = []
        losses: list[float] = []
        smooth: list[float] = []
        average = 0.0
        with progress(steps, "find the learning rate") as advance:
            for step in range(steps):
                lr = lowest * (highest / lowest) ** (step / (steps - 1))
                for group in optimizer.param_groups:
                    group["lr"] = lr * group.get("lr_scale", 1.0)
                seed_everything(config.seed, step, 0)
                loss = task.training_step([engine.to_device(next(batches)) for _ in range(config.accumulate)], engine).item()
                average = 0.9 * average + 0.1 * loss
                if not math.isfinite(loss) or (smooth and average / (1 - 0.9 ** (step + 1)) > _DIVERGED * min(smooth)):
                    break
                lrs.append(lr)
                losses.append(loss)
                smooth.append(average / (1 - 0.9 ** (step + 1)))
                optimizer.step()
                optimizer.zero_grad()
                task.after_step()
                advance(f"loss {loss:.3f}")
        return LrCurve(lrs, losses, smooth, steepest(lrs, smooth) if smooth else None)
    finally:
        module.load_state_dict(kept)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(learned[name])
            parameter.grad = None

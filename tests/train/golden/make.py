"""How the golden runs beside this file were made: `python tests/train/golden/make.py OUT` with the code of that time.

Each is a run of `fit` on a network of 200 numbers that was killed after step 5 of 8; `tests/train/test_golden.py` goes on with them. A new
one is added when what is written changes; an old one is never made again.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from zoo.datasets import Split
from zoo.files import write_together
from zoo.train import Task, TrainConfig, fit

ROWS = 16
STEPS_AN_EPOCH = 4


class Tiny(Task):
    """A convolution, a batch norm and a linear layer: parameters with and without decay, and buffers."""

    kind = "tiny"
    columns = ("picture", "label")
    default_batch_size = 4
    default_lr = 1e-2
    metric = "top1"

    def __init__(self) -> None:
        torch.manual_seed(0)
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 2))
        super().__init__(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *head))

    def prepare(self, training: bool) -> Callable:
        return lambda row: {"picture": torch.from_numpy(row["picture"]), "label": row["label"]}

    def collate(self, rows: Sequence) -> dict:
        batch = {key: torch.tensor([row[key] for row in rows]) for key in ("label", "index")}
        return {"picture": torch.stack([row["picture"] for row in rows]), **batch}

    def batch_loss(self, batch: dict) -> torch.Tensor:
        return nn.functional.cross_entropy(self.trainable_module(batch["picture"]), batch["label"])

    def outputs(self, batch: dict, model: nn.Module) -> dict:
        return {"right": (model(batch["picture"]).argmax(1) == batch["label"]).float()}

    def measure(self, outputs: Iterable, split: Any) -> dict:
        found = [each["right"].mean().item() for each in outputs]
        return {"top1": 100 * sum(found) / len(found)}

    def describe(self) -> dict:
        return {"task": self.kind}

    def save(self, out: Path, model: nn.Module, run: dict) -> None:
        weights = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        write_together(out, {"config.json": json.dumps({"zoo": run}).encode(), "weights": safetensors.torch.save(weights)})


def read(index: int) -> dict:
    noise = np.random.default_rng(index).standard_normal((3, 8, 8)).astype(np.float32)
    return {"picture": noise + 0.5 * (index % 2), "label": index % 2}


def train(out: str | None, task: Tiny | None = None, **how: Any) -> Tiny:
    """Two epochs of four steps, with everything that a checkpoint can hold."""
    task = task or Tiny()
    config = TrainConfig(**{"epochs": 2, "out": out, "ema": 0.9, "checkpoint_every": 1, "device": "cpu", **how})
    fit(task, Split(ROWS, read, ("picture", "label")), Split(ROWS, read, ("picture", "label")), config)
    return task


def train_and_be_killed(out: str) -> None:
    """After the optimizer has taken its sixth step, five are saved."""
    task, steps = Tiny(), iter(range(5))
    task.after_step = lambda: next(steps, None) is None and os.kill(os.getpid(), 9)  # type: ignore[method-assign, assignment]
    train(out, task)


if __name__ == "__main__":
    train_and_be_killed(sys.argv[1])

"""The loop: rows to steps to a run directory, the same for every task.

    config.json, model.safetensors   the model, as timm reads it; what it was trained with under "zoo"
    metrics.jsonl                    a line an epoch
    checkpoints/                     what `resume` goes on from

The state of a run is one integer, the step: everything random is a function of it and the seed. So a run that was stopped, or killed, and
resumed ends with the very weights of one that was not.
"""

import copy
import json
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from timm.utils import unwrap_model
from torch import nn

from ..backbones import finish_swap, set_share
from ..backbones.graft import hand_overs
from ..datasets.data import Row, Split, as_split
from ..progress import console, progress
from . import checkpoint
from .config import TrainConfig
from .engine import Engine
from .folder import Folder, claim, may_write
from .loader import Batch, PreparedRows, load
from .measure import check_columns, evaluate
from .optim import Schedule, create_optimizer
from .randomness import seed_everything
from .sampler import Plan
from .shard import load_optimizer, whole
from .signals import Stopped, stop_signals
from .task import Task
from .tiny_maps import tiny_maps


def fit(
    task: Task,
    train: Sequence[Row],
    eval: Sequence[Row] | None = None,
    config: TrainConfig | None = None,
    *,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a task.

    Args:
        task: what to train; its model is trained in place.
        train, eval: rows to learn from, and to measure on after every epoch; a Split, or any sequence of dicts.
        config: how.
        about: more to write into the run, as JSON, such as the data string.

    Returns:
        The metrics of the last epoch: `epoch`, `step`, `loss` (of training), `lr`, `seconds`, and what the task measures.

    Raises:
        ValueError: something in the config, the data or the run directory is not as it must be; nothing has been written then.
        Stopped: Ctrl-C or SIGTERM; the run is saved and can be resumed.
        FloatingPointError: the loss is no longer a number; the last checkpoint is from before.
    """
    config = config or TrainConfig()
    config = replace(config, batch_size=config.batch_size or task.default_batch_size, lr=config.lr or task.default_lr)
    train, eval = as_split(train), None if eval is None else as_split(eval)
    for split, which in ((train, "train"), (eval, "eval")):
        if split is not None:
            check_columns(task, split, which)
    return _Training(task, train, eval, config, about or {}).run()


def _differences(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    keys = sorted(now.keys() | then.keys())
    return [f"{key} was {then.get(key)!r} and is {now.get(key)!r}" for key in keys if now.get(key) != then.get(key)]


class _Training:
    """One run, from the checks before the first step to the files after the last.

    `step` and `sums` (of the losses of this epoch, and how many) are all that changes beside weights and optimizer.
    """

    def __init__(self, task: Task, train: Split, eval: Split | None, config: TrainConfig, about: dict[str, Any]):
        self.task, self.train, self.eval, self.config = task, train, eval, config
        self.engine = engine = Engine(config.device, config.precision)
        assert config.batch_size is not None  # `fit` has asked the task
        self.plan = Plan(len(train), config.batch_size, config.epochs, config.accumulate, config.seed, engine.rank, engine.world)
        settings = {**task.describe(), **config.settings(), **about, "rows": len(train), "processes": engine.world}
        self.settings = json.loads(json.dumps(settings))
        self.out = out = Path(config.out) if config.out else None
        if out is not None:
            engine.together(lambda: may_write(out, config))  # before the first process writes there
        self.folder = Folder(self.out, engine.is_main)
        self.workers = config.workers if config.workers is not None else 0 if engine.device.type == "cpu" else 4
        self.step, self.sums = 0, [0.0, 0.0]
        self.history: list[dict[str, Any]] = []
        engine.place(task)
        self.shell: nn.Module | None = None  # of a sharded model: the whole one, to write it as others read it
        self._set_up()
        self.grafted = any(hand_overs(self.model(False)))

    def _set_up(self) -> None:
        """Optimizer, running average and schedule, as they were at the last checkpoint if the run goes on."""
        task, config = self.task, self.config
        saved = self._last_checkpoint()
        if saved is None:
            task.begin(config, self.engine.world)
        else:
            task.trainable_module.load_state_dict(saved[0]["model"])
        self.engine.share_weights(task.trainable_module)
        if config.sync_bn and self.engine.world > 1:
            task.sync_batch_norms(self.engine)
        if config.ema is not None:
            task.setup_ema(decay=config.ema, use_warmup=True)
            if saved is not None:
                unwrap_model(task.trainable_module_ema).load_state_dict(saved[0]["ema"])
        if config.shard:
            self.shell = copy.deepcopy(self.model(False)).cpu() if self.engine.is_main and self.engine.world > 1 else None
            task.shard(config.shard, self.engine)
        self.bare = create_optimizer(task.trainable_module, config)
        self.schedule = Schedule(self.bare, config, self.plan.steps)
        if saved is not None:
            load_optimizer(self.bare, saved[1]["optimizer"])
        self.optimizer = self.engine.prepare(task, self.bare)
        if saved is not None and "scaler" in saved[1]:
            self.engine.accelerator.scaler.load_state_dict(saved[1]["scaler"])

    def _last_checkpoint(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """(tensors, optimizer) to go on from; takes over its step and the log up to it."""
        if not self.config.resume or self.out is None:
            return None
        saved = checkpoint.checkpoints(self.out / "checkpoints")
        if not saved:
            console.print(f"{self.out} has no checkpoint yet: starting from the beginning")
            return None
        tensors, optimizer, state = checkpoint.read(saved[-1])
        then = {**json.loads(json.dumps(TrainConfig().settings())), **state["settings"]}  # what older runs do not know is at its default
        if changed := _differences(self.settings, then):
            why = "; each process draws random numbers of its own, so another number of them would end with other weights"
            told = "; ".join(changed) + (why if then.get("processes") != self.settings["processes"] else "")
            raise ValueError(f"resume: the run in {self.out} has other settings: {told}")
        self.step, self.sums = state["step"], state["sums"]
        self.history = self.folder.keep_log_until(self.step)
        return tensors, optimizer

    def model(self, averaged: bool) -> nn.Module:
        return unwrap_model(self.task.get_trainable_module(ema=averaged))

    @property
    def averages(self) -> bool:
        return self.config.ema is not None

    def save_checkpoint(self) -> None:
        if self.folder.checkpoints is None and not self.task.in_step:
            return
        tensors = {"model": self.weights(False), **({"ema": self.weights(True)} if self.averages else {})}
        optimizer = {"optimizer": whole(self.bare.state_dict())}
        if self.folder.checkpoints is None:
            return
        if self.config.precision == "fp16":
            optimizer["scaler"] = self.engine.accelerator.scaler.state_dict()
        checkpoint.write(self.folder.checkpoints, self.step, tensors, optimizer, {"sums": self.sums, "settings": self.settings})

    def weights(self, averaged: bool) -> dict[str, Any]:
        """The state of the model; of a sharded one put together, for which all processes must ask."""
        return whole(self.model(averaged).state_dict())

    def save_model(self) -> None:
        model = self.model(self.averages)
        if self.task.in_step:
            weights = self.weights(self.averages)
            if self.shell is not None:
                self.shell.load_state_dict(weights)
                model = self.shell
        if self.folder.out is not None:
            self.task.save(self.folder.out, model, self.settings)

    def run(self) -> dict[str, Any]:
        task, engine, plan = self.task, self.engine, self.plan
        if self.step >= plan.steps and self.history:
            console.print(f"{self.out} is already trained: {plan.epochs} of {plan.epochs} epochs")
            self.save_model()
            self.finish()
            return self.history[-1]
        task.look(self.train, engine)
        if self.out is not None and engine.is_main:
            claim(self.out, overwrite=self.config.overwrite)
        engine.barrier()
        if self.step == 0:
            self.save_model()  # a run that is killed in its first epoch is a run already
        rows = PreparedRows(self.train, task.prepare(True), self.config.seed)
        loader = load(rows, replace(plan, start=self.step), task.collate, workers=self.workers, pin=engine.device.type == "cuda")
        batches = iter(loader)
        metrics: dict[str, Any] = {}
        began, first = time.monotonic(), self.step
        with stop_signals() as caught, tiny_maps(task) if engine.device.type == "cpu" else nullcontext():
            for epoch in range(self.step // plan.steps_per_epoch, plan.epochs):
                metrics = self.epoch(epoch, batches, caught)
                self.folder.log(metrics)
                self.save_model()
                self.save_checkpoint()
                done = (self.step - first) / max(1, plan.steps - first)
                if engine.is_main:
                    _say(metrics, plan.epochs, (time.monotonic() - began) * (1 - done) / done, task.metric)
                if engine.any(bool(caught)) and epoch + 1 < plan.epochs:
                    raise self.stopped(caught)
        self.finish()
        return engine.shared(metrics)

    def epoch(self, epoch: int, batches: Iterator[Batch], caught: list[int]) -> dict[str, Any]:
        """The steps of an epoch that are left, and what is measured after them."""
        plan, config, engine = self.plan, self.config, self.engine
        self.task.train()
        steps = range(self.step, (epoch + 1) * plan.steps_per_epoch)
        began = time.monotonic()
        with progress(len(steps), f"epoch {epoch + 1}/{plan.epochs}") as advance:
            for step in steps:
                micro = engine.together(lambda: [engine.to_device(next(batches)) for _ in range(config.accumulate)])
                loss = self.take(step, micro)
                self.step, self.sums = step + 1, [self.sums[0] + loss, self.sums[1] + 1]
                advance(f"loss {loss:.3f}")
                if self.step == steps.stop:
                    break  # saved after it was measured
                if engine.any(bool(caught)):
                    self.save_checkpoint()
                    raise self.stopped(caught)
                if config.checkpoint_every and self.step % config.checkpoint_every == 0:
                    self.save_checkpoint()
        train_seconds = time.monotonic() - began
        loss = self.sums[0] / max(1, self.sums[1])
        metrics = {"epoch": epoch + 1, "step": self.step, "loss": loss, "lr": self.bare.param_groups[0]["lr"]}
        if self.eval is not None:
            metrics |= evaluate(self.task, self.eval, model=self.model(self.averages), engine=engine, workers=self.workers)
        metrics["seconds"] = time.monotonic() - began
        metrics["rows_per_second"] = len(steps) * plan.rows_per_step / max(train_seconds, 1e-9)
        self.sums = [0.0, 0.0]
        return metrics

    def take(self, step: int, micro: list[Batch]) -> float:
        """One optimizer step over the list of its micro-batches; returns the loss."""
        task, engine, config = self.task, self.engine, self.config
        seed_everything(config.seed, step, engine.rank)
        self.schedule.set(step)
        task.progress = step / self.plan.steps
        self.hand_over(step, averaged=False)
        loss = task.training_step(micro, engine).item()
        if engine.any(not math.isfinite(loss)):
            indices = np.concatenate([batch["index"].cpu().numpy() for batch in micro])
            hint = "try a lower learning rate, or clip the gradient"
            raise FloatingPointError(f"the loss of step {step} is {loss}; its rows are {indices.tolist()}; {hint}")
        if config.clip_grad is not None:
            engine.clip(task.trainable_module, config.clip_grad)
        engine.step(self.optimizer, task)
        self.optimizer.zero_grad()
        task.after_step()
        task.update_ema(step)
        if self.averages:
            self.hand_over(step, averaged=True)  # not averaged over the steps, but of this one
        return loss

    def hand_over(self, step: int, averaged: bool) -> None:
        """The new gates' share in step `step`: a function of the step alone, like everything else."""
        if self.grafted:
            set_share(self.model(averaged), min(1.0, (step + 1) / max(1.0, self.config.hand_over * self.plan.steps)))

    def finish(self) -> None:
        """Drop the old gates: after the last checkpoint, which a later `resume` loads into the network as it was given."""
        if self.grafted:
            report = finish_swap(self.model(False))
            if self.averages:
                finish_swap(self.model(True))
            console.print(f"the new gates have taken over in {len(report)} slots; the old ones are gone")
            self.save_model()

    def stopped(self, caught: list[int]) -> Stopped:
        number = caught[0] if caught else signal.SIGTERM  # another process was asked
        where = f"saved at step {self.step} of {self.plan.steps} in {self.out}; --resume goes on from there"
        return Stopped(f"stopped by {signal.Signals(number).name}: {where if self.out else 'nothing is saved: no out was given'}", number)


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _say(metrics: dict[str, Any], epochs: int, left: float, metric: str) -> None:
    measured = f"  {metric} {metrics[metric]:.1f} %" if metric in metrics else ""
    ending = f"  left {_clock(left)}" if left else ""
    speed = f"{metrics['rows_per_second']:.0f} rows/s  {_clock(metrics['seconds'])}"
    console.print(
        f"epoch {metrics['epoch']}/{epochs}  loss {metrics['loss']:.3f}{measured}  {speed}{ending}", highlight=False, soft_wrap=True
    )

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
from .sampler import Plan, balanced
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
        The metrics of the last epoch: `epoch`, `step`, `loss` (of training), `lr`, `seconds`, and what the task measures (its loss as
        `eval_loss`).

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
    if eval is None and (config.patience or config.keep_best):
        raise ValueError("patience and keep_best ask which epoch was best: give rows to evaluate on")
    return _Training(task, train, eval, config, about or {}).run()


def _differences(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """What a run was begun with and is not to go on with; a setting that did not exist then had its default."""
    then = {**TrainConfig().settings(), **then}
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
        if config.sample == "balanced":
            self.plan = replace(self.plan, weights=balanced(train))
        settings = {**task.describe(), **config.settings(), **about, "rows": len(train), "processes": engine.world}
        self.settings = json.loads(json.dumps(settings))
        self.out = Path(config.out) if config.out else None
        if self.out is not None:
            may_write(self.out, config)
        self.folder = Folder(self.out, engine.is_main)
        self.workers = config.workers if config.workers is not None else 0 if engine.device.type == "cpu" else 4
        self.step, self.sums = 0, [0.0, 0.0]
        self.history: list[dict[str, Any]] = []
        engine.place(task)
        task.plan_freezing(config.unfreeze_at)
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
        if config.ema is not None:
            task.setup_ema(decay=config.ema, use_warmup=True)
            if saved is not None:
                unwrap_model(task.trainable_module_ema).load_state_dict(saved[0]["ema"])
        self.bare = create_optimizer(task.trainable_module, config)
        self.schedule = Schedule(self.bare, config, self.plan.steps)
        if saved is not None:
            self.bare.load_state_dict(saved[1]["optimizer"])
        task.begin_epoch(self.step // self.plan.steps_per_epoch)
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
        if changed := _differences(self.settings, state["settings"]):
            raise ValueError(f"resume: the run in {self.out} has other settings: {'; '.join(changed)}")
        self.step, self.sums = state["step"], state["sums"]
        self.history = self.folder.keep_log_until(self.step)
        return tensors, optimizer

    def model(self, averaged: bool) -> nn.Module:
        return unwrap_model(self.task.get_trainable_module(ema=averaged))

    @property
    def averages(self) -> bool:
        return self.config.ema is not None

    def save_checkpoint(self) -> None:
        if self.folder.checkpoints is None:
            return
        tensors = {"model": self.model(False).state_dict(), **({"ema": self.model(True).state_dict()} if self.averages else {})}
        optimizer = {"optimizer": self.bare.state_dict()}
        if self.config.precision == "fp16":
            optimizer["scaler"] = self.engine.accelerator.scaler.state_dict()
        checkpoint.write(self.folder.checkpoints, self.step, tensors, optimizer, {"sums": self.sums, "settings": self.settings})

    def save_model(self) -> None:
        if self.folder.out is not None:
            self.task.save(self.folder.out, self.model(self.averages), self.settings)

    def best(self) -> dict[str, Any] | None:
        """The metrics of the first epoch that none was better than; a function of the log, so that it is the same after a restart."""
        measured = [line for line in self.history if self.task.metric in line]
        return max(measured, key=lambda line: line[self.task.metric], default=None)

    def at_rest(self) -> bool:
        """Whether the evaluation has not become better for `patience` epochs."""
        best = self.best()
        if self.grafted and any(gate.share < 1 for _, gate in hand_overs(self.model(False))):
            return False  # the network is not yet what it is to be
        return self.config.patience is not None and best is not None and self.history[-1]["epoch"] - best["epoch"] >= self.config.patience

    def save_best(self) -> None:
        """After the log and before the checkpoint: a run killed in between takes the epoch again, and writes the same."""
        best = self.best()
        if best is None or best is not self.history[-1] or not (self.config.keep_best or self.config.patience):
            return
        model = self.model(self.averages)
        with self.folder.replacing("best") as work:
            if work is not None:
                if self.grafted and all(gate.share == 1 for _, gate in hand_overs(model)):
                    finish_swap(model := copy.deepcopy(model))
                self.task.save(work, model, self.settings)

    def run(self) -> dict[str, Any]:
        task, engine, plan, config = self.task, self.engine, self.plan, self.config
        if engine.any(bool(self.history) and (self.step >= plan.steps or self.at_rest())):
            if engine.is_main:
                console.print(f"{self.out} is already trained: {self.history[-1]['epoch']} of {plan.epochs} epochs")
            self.save_model()
            self.finish()
            return engine.shared(self.history[-1] if self.history else {})
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
                self.history.append(metrics)
                self.save_model()
                self.save_best()
                self.save_checkpoint()
                done = (self.step - first) / max(1, plan.steps - first)
                if engine.is_main:
                    _say(metrics, plan.epochs, (time.monotonic() - began) * (1 - done) / done, task.metric)
                if engine.any(self.at_rest()):
                    best = self.best()
                    console.print(f"no better for {config.patience} epochs; the best was epoch {best['epoch']}") if best else None
                    break
                if engine.any(bool(caught)) and epoch + 1 < plan.epochs:
                    raise self.stopped(caught)
        self.finish()
        return engine.shared(metrics)

    def epoch(self, epoch: int, batches: Iterator[Batch], caught: list[int]) -> dict[str, Any]:
        """The steps of an epoch that are left, and what is measured after them."""
        plan, config, engine = self.plan, self.config, self.engine
        self.task.begin_epoch(epoch)
        self.task.train()
        steps = range(self.step, (epoch + 1) * plan.steps_per_epoch)
        began = time.monotonic()
        with progress(len(steps), f"epoch {epoch + 1}/{plan.epochs}") as advance:
            for step in steps:
                loss = self.take(step, [engine.to_device(next(batches)) for _ in range(config.accumulate)])
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
        if self.eval is not None and engine.is_main:
            measured = evaluate(self.task, self.eval, model=self.model(self.averages), engine=engine, workers=self.workers)
            metrics |= {"eval_loss" if key == "loss" else key: value for key, value in measured.items()}
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
        self.optimizer.step()
        self.optimizer.zero_grad()
        task.after_step()
        task.update_ema(step)
        if self.averages:
            self.hand_over(step, averaged=True)  # not averaged over the steps, but of this one
        return loss

    def hand_over(self, step: int, averaged: bool) -> None:
        """The new gates' share in step `step`: a function of the step alone, like everything else."""
        if self.grafted:
            frozen, model = self.task.frozen, self.model(averaged)
            first = 0  # frozen gates begin when they begin to learn
            if frozen is not None and frozen.until and any(frozen.holds_gate(path) for path, _ in hand_overs(model)):
                first = frozen.until * self.plan.steps_per_epoch
            share = (step + 1 - first) / max(1.0, self.config.hand_over * (self.plan.steps - first))
            set_share(model, min(1.0, max(0.0, share)))

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

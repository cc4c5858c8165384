"""The loop: rows to steps to a run directory, the same for every task.

    config.json, model.safetensors   the model, as timm reads it; what it was trained with under "zoo"
    metrics.jsonl                    a line an epoch
    broken.jsonl                     pictures that could not be read, if any
    checkpoints/                     what `resume` goes on from

The state of a run is one integer, the step: everything random is a function of it and the seed. So a run that was stopped, or killed, and
resumed ends with the very weights of one that was not.
"""

import copy
import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.utils import unwrap_model
from torch import nn

from ..backbones import finish_swap, set_share
from ..backbones.graft import hand_overs
from ..backbones.recompute import check_recomputable, recomputed
from ..datasets.data import Row, Split, as_split
from ..progress import console, progress
from . import checkpoint
from .broken import BrokenFiles
from .config import TrainConfig
from .engine import Engine
from .folder import Folder, claim, may_write
from .guard import Guard
from .loader import Batch, PreparedRows, load, stream
from .measure import check_columns, evaluate
from .optim import Schedule, create_optimizer
from .randomness import deterministic, seed_everything
from .sampler import Plan, balanced
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
        The metrics of the last epoch: `epoch`, `step`, `loss` (of training), `lr`, `seconds`, `rows_per_second`, what the task measures
        (its loss as `eval_loss`), and two shares of the time: `waiting` (of the steps, for rows) and `saving` (since the epoch before,
        in checkpoints).

    Raises:
        ImportError: a tracker of `log` is not installed.
        ValueError: something in the config, the data or the run directory is not as it must be; nothing has been written then.
        Stopped: Ctrl-C or SIGTERM; the run is saved and can be resumed.
        BrokenPicture: a picture can not be read, and `config.broken` is "raise".
        FloatingPointError: a loss or a gradient is no number (see TrainConfig.nonfinite); the last checkpoint is from before.
    """
    config = config or TrainConfig()
    task.train()  # one that is not for training says so, before anything else is looked at
    config = replace(config, batch_size=config.batch_size or task.default_batch_size, lr=config.lr or task.default_lr)
    train, eval = as_split(train), None if eval is None else as_split(eval)
    for split, which in ((train, "train"), (eval, "eval")):
        if split is not None:
            check_columns(task, split, which)
    if eval is None and (config.patience or config.keep_best):
        raise ValueError("patience and keep_best ask which epoch was best: give rows to evaluate on")
    with ExitStack() as held, deterministic(config.deterministic):
        return _Training(task, train, eval, config, about or {}, held).run()


def _differences(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """What a run was begun with and is not to go on with; a setting that did not exist then had its default."""
    then = {**TrainConfig().settings(), **then}
    if then["broken"] == "raise":
        then["broken"] = now["broken"]  # nothing was left out or replaced yet: any choice goes on as if it had been made at first
    keys = sorted(now.keys() | then.keys())
    return [f"{key} was {then.get(key)!r} and is {now.get(key)!r}" for key in keys if now.get(key) != then.get(key)]


class _Training:
    """One run, from the checks before the first step to the files after the last.

    `step`, and of this epoch `sums` (of the losses, and how many) and the number of broken rows, are all that changes beside weights and
    optimizer.
    """

    def __init__(self, task: Task, train: Split, eval: Split | None, config: TrainConfig, about: dict[str, Any], held: ExitStack):
        self.task, self.train, self.eval, self.config = task, train, eval, config
        self.engine = engine = Engine(config.device, config.precision, config.log, Path(config.out) if config.out else None)
        assert config.batch_size is not None  # `fit` has asked the task
        weights = balanced(train) if config.sample == "balanced" else None
        places = engine.rank, engine.world, 0, train.stretches, weights
        self.plan = Plan(len(train), config.batch_size, config.epochs, config.accumulate, config.seed, *places)
        settings = {**task.describe(), **config.settings(), **about, "rows": len(train), "processes": engine.world}
        self.settings = json.loads(json.dumps(settings))
        self.out = out = Path(config.out) if config.out else None
        self.folder = engine.together(lambda: Folder(out, engine.is_main, held))
        if out is not None:
            engine.together(lambda: may_write(out, config))  # before the first process writes there
        self.workers = config.workers if config.workers is not None else 0 if engine.device.type == "cpu" else 4
        self.step, self.sums = 0, [0.0, 0.0]
        self.broken = BrokenFiles(config.broken, self.out / "broken.jsonl" if self.out else None, engine)
        self.saving, self.logged = 0.0, time.monotonic()  # seconds in checkpoints since the last line of the log, and when that was
        self.history: list[dict[str, Any]] = []
        if config.recompute:
            check_recomputable(task)
        if config.compile:
            engine.compile(task)
        engine.place(task)
        self.shell: nn.Module | None = None  # of a sharded model: the whole one, to write it as others read it
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
        self.guard = Guard(task.trainable_module, self.engine, self.folder, config.nonfinite, self.plan.steps_per_epoch)
        if saved is not None:
            self.guard.in_a_row = saved[2].get("refused", 0)
        self.bare = create_optimizer(task.trainable_module, config)
        self.schedule = Schedule(self.bare, config, self.plan.steps)
        if saved is not None:
            load_optimizer(self.bare, saved[1]["optimizer"])
        task.begin_epoch(self.step // self.plan.steps_per_epoch)
        self.optimizer = self.engine.prepare(task, self.bare)
        if saved is not None and "scaler" in saved[1]:
            self.engine.accelerator.scaler.load_state_dict(saved[1]["scaler"])

    def _last_checkpoint(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None:
        """(tensors, optimizer, state) to go on from; takes over its step and the log up to it."""
        if not self.config.resume or self.out is None:
            return None
        mine = self.folder.checkpoints  # None in all processes but the first
        saved = self.engine.together(lambda: checkpoint.newest(mine) if mine else None)
        name = self.engine.shared(saved.path.name if saved else None)  # every process goes on from the one that the first found good
        if name is None:
            console.print(f"{self.out} has no checkpoint yet: starting from the beginning")
            return None
        tensors, optimizer, state = saved.contents if saved else checkpoint.read(self.out / "checkpoints" / name)
        if changed := _differences(self.settings, state["settings"]):
            why = "; each process draws random numbers of its own, so another number of them would end with other weights"
            told = "; ".join(changed) + (why if any(each.startswith("processes was") for each in changed) else "")
            raise ValueError(f"resume: the run in {self.out} has other settings: {told}")
        for told in checkpoint.set_aside(saved) if saved else ():
            console.print(f"warning: {told}", highlight=False, soft_wrap=True)
        self.step, self.sums, self.broken.rows = state["step"], state["sums"], state.get("broken", 0)
        self.history = self.engine.shared(self.folder.keep_log_until(self.step))
        if self.step % self.plan.steps_per_epoch == 0 and not self.unmeasured:
            self.sums, self.broken.rows = [0.0, 0.0], 0
        return tensors, optimizer, state

    def model(self, averaged: bool) -> nn.Module:
        return unwrap_model(self.task.get_trainable_module(ema=averaged))

    @property
    def unmeasured(self) -> bool:
        """Whether an epoch is at its end, and its line is not in the log."""
        ended = self.step > 0 and self.step % self.plan.steps_per_epoch == 0
        return ended and (not self.history or self.history[-1]["step"] != self.step)

    @property
    def averages(self) -> bool:
        return self.config.ema is not None

    def save_checkpoint(self) -> None:
        self.guard.check_weights(self.step)
        self.broken.gather()
        if self.folder.checkpoints is None and not self.task.in_step:
            return
        began = time.monotonic()
        tensors = {"model": self.weights(False), **({"ema": self.weights(True)} if self.averages else {})}
        optimizer = {"optimizer": whole(self.bare.state_dict())}
        if self.folder.checkpoints is None:
            return
        if self.config.precision == "fp16":
            optimizer["scaler"] = self.engine.accelerator.scaler.state_dict()
        state = {"sums": self.sums, "broken": self.broken.rows, "refused": self.guard.in_a_row, "settings": self.settings}
        checkpoint.write(self.folder.checkpoints, self.step, tensors, optimizer, state)
        self.saving += time.monotonic() - began

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
        if self.history and not self.unmeasured and engine.any(self.step >= plan.steps or self.at_rest()):
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
        least = 2  # rows in a batch: batch norms have no statistics of one
        rows = PreparedRows(self.train, task.prepare(True), self.config.seed, broken=self.config.broken, holes=task.holes, least=least)
        loader = load(rows, replace(plan, start=self.step), task.collate, workers=self.workers, pin=engine.device.type == "cuda")
        metrics: dict[str, Any] = {}
        began, first = time.monotonic(), self.step
        with ExitStack() as inside:
            caught = inside.enter_context(stop_signals())
            if engine.device.type == "cpu" and not self.config.compile:
                inside.enter_context(tiny_maps(task))
            engine.start_log(self.settings, self.step)
            inside.callback(engine.end_log)
            if self.config.recompute:
                inside.enter_context(recomputed(task))
            batches = inside.enter_context(closing(stream(loader)))
            for epoch in range((self.step - self.unmeasured) // plan.steps_per_epoch, plan.epochs):
                metrics = self.epoch(epoch, batches, caught)
                self.history.append(metrics)
                self.save_model()
                self.save_best()
                self.folder.log(metrics)
                engine.log(metrics, self.step)
                done = (self.step - first) / max(1, plan.steps - first)
                if engine.is_main:
                    _say(metrics, plan.epochs, (time.monotonic() - began) * (1 - done) / done if done else 0.0, task.metric)
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
        began, waited = time.monotonic(), 0.0
        with progress(len(steps), f"epoch {epoch + 1}/{plan.epochs}") as advance:
            for step in steps:
                asked = time.monotonic()
                micro = engine.together(lambda: [self.taken(next(batches)) for _ in range(config.accumulate)])
                waited += time.monotonic() - asked
                loss = self.take(step, micro)
                self.step = step + 1
                if loss is not None:
                    self.sums = [self.sums[0] + loss, self.sums[1] + 1]
                advance("skipped" if loss is None else f"loss {loss:.3f}")
                stopping = engine.any(bool(caught))
                ended = self.step == steps.stop  # saved before it is measured: what comes then costs no step
                if stopping or ended or (config.checkpoint_every and self.step % config.checkpoint_every == 0):
                    self.save_checkpoint()
                if stopping:
                    raise self.stopped(caught)
        train_seconds = time.monotonic() - began
        loss = self.sums[0] / max(1, self.sums[1])
        metrics = {"epoch": epoch + 1, "step": self.step, "loss": loss, "lr": self.bare.param_groups[0]["lr"]}
        if config.nonfinite == "skip":
            metrics["skipped"] = plan.steps_per_epoch - int(self.sums[1])
        if config.broken != "raise":
            self.broken.gather()
            metrics["broken"] = self.broken.rows

        def cut() -> None:
            if caught and engine.world == 1:  # the checkpoint is there; of several processes, the others wait for the end
                raise self.stopped(caught)

        if self.eval is not None:
            how: dict[str, Any] = {"engine": engine, "workers": self.workers, "broken": config.broken, "tell": self.broken.tell}
            measured = evaluate(self.task, self.eval, model=self.model(self.averages), before_batch=cut, **how)
            metrics |= {"eval_loss" if key == "loss" else key: value for key, value in measured.items()}
        metrics["seconds"] = time.monotonic() - began
        metrics["rows_per_second"] = len(steps) * plan.rows_per_step / max(train_seconds, 1e-9)
        metrics["waiting"] = waited / max(train_seconds, 1e-9)
        now = time.monotonic()
        metrics["saving"] = self.saving / max(now - self.logged, 1e-9)
        self.saving, self.logged = 0.0, now
        self.sums, self.broken.rows = [0.0, 0.0], 0
        return metrics

    def taken(self, batch: Batch) -> Batch:
        """On its device; the rows that are broken are noted."""
        self.broken.note(batch.pop("broken", ()))
        return self.engine.to_device(batch)

    def take(self, step: int, micro: list[Batch]) -> float | None:
        """One optimizer step over the list of its micro-batches; returns the loss, or None where the step was skipped."""
        task, engine, config = self.task, self.engine, self.config
        seed_everything(config.seed, step, engine.rank)
        self.schedule.set(step)
        task.progress = step / self.plan.steps
        self.hand_over(step, averaged=False)
        self.guard.keep()
        loss = task.training_step(micro, engine).item()
        norm = 0.0 if engine.scales else engine.clip(task.trainable_module, config.clip_grad)
        if self.guard.refuses(loss, norm):
            self.guard.refuse(step, loss, norm, micro)
            self.optimizer.zero_grad()
            return None
        if engine.scales and config.clip_grad is not None:
            engine.clip(task.trainable_module, config.clip_grad)  # not before: the scaler may not be touched in a step that is skipped
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
    measured += f"  {metrics['broken']} rows broken" if metrics.get("broken") else ""
    speed = f"{metrics['rows_per_second']:.0f} rows/s  {_clock(metrics['seconds'])}"
    console.print(
        f"epoch {metrics['epoch']}/{epochs}  loss {metrics['loss']:.3f}{measured}  {speed}{ending}", highlight=False, soft_wrap=True
    )

"""The loop: rows to steps to a run directory, the same for every task.

    config.json, model.safetensors   the model, as timm reads it; what it was trained with under "zoo"
    metrics.jsonl                    a line an epoch
    checkpoints/                     what `resume` goes on from

The state of a run is one integer, the step: everything random is a function of it and the seed. So a run that was stopped, or killed, and
resumed ends with the very weights of one that was not.
"""

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import unwrap_model
from torch import nn

from ..backbones import finish_swap, set_share
from ..backbones.graft import hand_overs
from ..datasets.data import Row, Split, as_split
from ..progress import console, progress, tracked
from . import checkpoint
from .config import TrainConfig
from .engine import Engine
from .loader import InOrder, PreparedRows, load
from .optim import Schedule, create_optimizer
from .randomness import seed_everything
from .sampler import Plan
from .task import Task
from .tiny_maps import tiny_maps

_FILES = ("config.json", "model.safetensors", "metrics.jsonl", "joint.safetensors")


class Stopped(Exception):
    """Ctrl-C or SIGTERM came; the step was finished and the run saved. `signal` says which it was."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal = signal_number


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted for the end of the step; the second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_run(folder: Path) -> bool:
    """Whether a directory holds what `fit` writes."""
    if checkpoint.checkpoints(folder / "checkpoints"):
        return True
    try:
        return "zoo" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False


def _may_write(out: Path, config: TrainConfig) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; expected a directory")
    if config.resume and not is_run(out):
        raise ValueError(f"resume: {out} holds no run; leave resume out to start one")
    if is_run(out) and not config.resume and not config.overwrite:
        raise ValueError(f"out: {out} already holds a run; resume it (--resume), replace it (--overwrite), or choose another directory")
    if not is_run(out) and (held := [file for file in _FILES if (out / file).exists()]):
        raise ValueError(f"out: {out} holds {', '.join(held)}, but no run; choose another directory, so that nothing is lost")


def claim(out: Path, *, overwrite: bool) -> None:
    """Make the run directory ready; nothing goes that is not of a run, and nothing at all unless it was asked for."""
    if overwrite and is_run(out):
        checkpoint.remove(out / "checkpoints")
        for file in (*_FILES, *(path.name for path in out.glob("tokenizer.*.json"))):
            (out / file).unlink(missing_ok=True)
        for folder in (*out.glob("tower.*"), out / "index"):
            shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)


def _differences(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    keys = sorted(now.keys() | then.keys())
    return [f"{key} was {then.get(key)!r} and is {now.get(key)!r}" for key in keys if now.get(key) != then.get(key)]


def _settings(task: Task, train: Split, config: TrainConfig, world: int, about: dict[str, Any]) -> dict[str, Any]:
    settings = {**task.describe(), **config.settings(), **about, "rows": len(train), "processes": world}
    return json.loads(json.dumps(settings))


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@torch.no_grad()
def evaluate(
    task: Task,
    split: Sequence[Row],
    *,
    model: nn.Module | None = None,
    engine: Engine | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    what: str = "evaluate",
) -> dict[str, Any]:
    """Metrics of a task's model over a split, every row counted once.

    Args:
        task: what to evaluate.
        split: the rows.
        model: another copy of the task's model, such as its running average.
        engine: where; the best device there is by default.
        batch_size: rows at a time; twice the task's own by default.
        workers: processes that read rows.
        what: the words beside the progress bar.

    Raises:
        ValueError: no rows, or rows without a column that the task needs.
    """
    split = as_split(split)
    _check_columns(task, split, "eval")
    engine = engine or Engine()
    model = model or task.trainable_module
    engine.place(task)
    was_training = model.training
    model.eval()
    plan = InOrder(len(split), batch_size or 2 * task.default_batch_size)
    loader = load(PreparedRows(split, task.prepare(False), 0), plan, task.collate, workers=workers, pin=engine.device.type == "cuda")
    try:
        with engine.autocast():
            batches = (engine.to_device(batch) for batch in tracked(loader, len(plan), what))
            return task.evaluate(batches, model, split)
    finally:
        model.train(was_training)
        if was_training:
            task.train()


def _check_columns(task: Task, split: Split, which: str) -> None:
    if not len(split):
        raise ValueError(f"the {which} split has no rows")
    task.check(split, which)


class _Run:
    """The files of a run."""

    def __init__(self, out: Path | None, main: bool):
        self.out = out if main else None

    @property
    def folder(self) -> Path | None:
        return self.out / "checkpoints" if self.out else None

    def log(self, line: dict[str, Any]) -> None:
        if self.out:
            numbers = {key: value for key, value in line.items() if not isinstance(value, list)}  # no matrix every epoch
            with (self.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(numbers) + "\n")

    def keep_log_until(self, step: int) -> list[dict[str, Any]]:
        """Lines that were written after the checkpoint describe steps that are now taken again."""
        path = self.out / "metrics.jsonl" if self.out else None
        if path is None or not path.exists():
            return []
        lines = []
        for text in path.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                break  # cut off by a kill
            if line["step"] <= step:
                lines.append(line)
        writing = path.with_name(".writing-metrics.jsonl")
        writing.write_text("".join(json.dumps(line) + "\n" for line in lines))
        writing.replace(path)
        return lines


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
    batch_size = config.batch_size or task.default_batch_size
    config = replace(config, batch_size=batch_size, lr=config.lr or task.default_lr)
    train, eval = as_split(train), None if eval is None else as_split(eval)
    for split, which in ((train, "train"), (eval, "eval")):
        if split is not None:
            _check_columns(task, split, which)
    engine = Engine(config.device, config.precision)
    plan = Plan(len(train), batch_size, config.epochs, config.accumulate, config.seed, engine.rank, engine.world)
    settings = _settings(task, train, config, engine.world, about or {})
    out = Path(config.out) if config.out else None
    if out is not None:
        _may_write(out, config)
    run = _Run(out, engine.is_main)
    workers = config.workers if config.workers is not None else 0 if engine.device.type == "cpu" else 4

    engine.place(task)
    start, sums, history = 0, [0.0, 0.0], []
    saved = checkpoint.checkpoints(out / "checkpoints") if config.resume and out else []
    if config.resume and not saved:
        console.print(f"{out} has no checkpoint yet: starting from the beginning")
    if saved:
        tensors, optimizer_state, state = checkpoint.read(saved[-1])
        if changed := _differences(settings, state["settings"]):
            raise ValueError(f"resume: the run in {out} has other settings: {'; '.join(changed)}")
        start, sums = state["step"], state["sums"]
        task.trainable_module.load_state_dict(tensors["model"])
        history = run.keep_log_until(start)
    else:
        task.begin(config, engine.world)
    if config.ema is not None:
        task.setup_ema(decay=config.ema, use_warmup=True)
        if saved:
            unwrap_model(task.trainable_module_ema).load_state_dict(tensors["ema"])
    bare = create_optimizer(task.trainable_module, config)
    schedule = Schedule(bare, config, plan.steps)
    if saved:
        bare.load_state_dict(optimizer_state["optimizer"])
    optimizer = engine.prepare(task, bare)
    if saved and "scaler" in optimizer_state:
        engine.accelerator.scaler.load_state_dict(optimizer_state["scaler"])

    def model(averaged: bool) -> nn.Module:
        return unwrap_model(task.get_trainable_module(ema=averaged))

    def save_checkpoint(step: int) -> None:
        if run.folder is None:
            return
        state_dicts = {"model": model(False).state_dict()}
        if config.ema is not None:
            state_dicts["ema"] = model(True).state_dict()
        extra = {"scaler": engine.accelerator.scaler.state_dict()} if config.precision == "fp16" else {}
        checkpoint.write(run.folder, step, state_dicts, {"optimizer": bare.state_dict(), **extra}, {"sums": sums, "settings": settings})

    def save_model() -> None:
        if run.out is not None:
            task.save(run.out, model(config.ema is not None), settings)

    def stopped(step: int, caught: list[int]) -> Stopped:
        number = caught[0] if caught else signal.SIGTERM  # another process was asked
        where = (
            f"saved at step {step} of {plan.steps} in {out}; --resume goes on from there" if out else "nothing is saved: no out was given"
        )
        return Stopped(f"stopped by {signal.Signals(number).name}: {where}", number)

    grafted = any(hand_overs(model(False)))

    def hand_over(step: int, averaged: bool) -> None:
        """The new gates' share in step `step`: a function of the step alone, like everything else."""
        if grafted:
            set_share(model(averaged), min(1.0, (step + 1) / max(1.0, config.hand_over * plan.steps)))

    def finish() -> None:
        """Drop the old gates: after the last checkpoint, which a later `resume` loads into the network as it was given."""
        if grafted:
            report = finish_swap(model(False))
            if config.ema is not None:
                finish_swap(model(True))
            console.print(f"the new gates have taken over in {len(report)} slots; the old ones are gone")
            save_model()

    if start >= plan.steps and history:
        console.print(f"{out} is already trained: {plan.epochs} of {plan.epochs} epochs")
        save_model()
        finish()
        return history[-1]
    task.look(train, engine)
    if out is not None and engine.is_main:
        claim(out, overwrite=config.overwrite)
    engine.barrier()
    metrics: dict[str, Any] = {}
    began, first_step = time.monotonic(), start
    remaining = replace(plan, start=start)
    rows = PreparedRows(train, task.prepare(True), config.seed)
    loader = load(rows, remaining, task.collate, workers=workers, pin=engine.device.type == "cuda")
    if start == 0:
        save_model()  # a run that is killed in its first epoch is a run already
    batches = iter(loader)
    with _stop_signals() as caught, tiny_maps(task) if engine.device.type == "cpu" else nullcontext():
        for epoch in range(start // plan.steps_per_epoch, plan.epochs):
            task.train()
            steps = range(max(start, epoch * plan.steps_per_epoch), (epoch + 1) * plan.steps_per_epoch)
            epoch_began = time.monotonic()
            with progress(len(steps), f"epoch {epoch + 1}/{plan.epochs}") as advance:
                for step in steps:
                    micro = [engine.to_device(next(batches)) for _ in range(config.accumulate)]
                    seed_everything(config.seed, step, engine.rank)
                    schedule.set(step)
                    task.progress = step / plan.steps
                    hand_over(step, averaged=False)
                    loss = task.training_step(micro, engine).item()
                    if engine.any(not math.isfinite(loss)):
                        indices = np.concatenate([batch["index"].cpu().numpy() for batch in micro])
                        hint = "try a lower learning rate, or clip the gradient"
                        raise FloatingPointError(f"the loss of step {step} is {loss}; its rows are {indices.tolist()}; {hint}")
                    if config.clip_grad is not None:
                        engine.clip(task.trainable_module, config.clip_grad)
                    optimizer.step()
                    optimizer.zero_grad()
                    task.after_step()
                    task.update_ema(step)
                    if config.ema is not None:
                        hand_over(step, averaged=True)  # not averaged over the steps, but of this one
                    sums = [sums[0] + loss, sums[1] + 1]
                    advance(f"loss {loss:.3f}")
                    last = step + 1 == steps.stop
                    if not last and engine.any(bool(caught)):
                        save_checkpoint(step + 1)
                        raise stopped(step + 1, caught)
                    if config.checkpoint_every and (step + 1) % config.checkpoint_every == 0 and not last:
                        save_checkpoint(step + 1)
            metrics = {"epoch": epoch + 1, "step": steps.stop, "loss": sums[0] / max(1, sums[1]), "lr": bare.param_groups[0]["lr"]}
            train_seconds = time.monotonic() - epoch_began
            if eval is not None and engine.is_main:
                averaged = config.ema is not None
                metrics |= evaluate(task, eval, model=model(averaged), engine=engine, workers=workers, what="evaluate")
            metrics["seconds"] = time.monotonic() - epoch_began
            metrics["rows_per_second"] = len(steps) * plan.rows_per_step / max(train_seconds, 1e-9)
            sums = [0.0, 0.0]
            run.log(metrics)
            save_model()
            save_checkpoint(steps.stop)
            done = (steps.stop - first_step) / max(1, plan.steps - first_step)
            left = (time.monotonic() - began) * (1 - done) / done
            if engine.is_main:
                _say(metrics, plan.epochs, left, task.metric)
            if engine.any(bool(caught)) and epoch + 1 < plan.epochs:
                raise stopped(steps.stop, caught)
    finish()
    return engine.shared(metrics)


def _say(metrics: dict[str, Any], epochs: int, left: float, metric: str) -> None:
    measured = f"  {metric} {metrics[metric]:.1f} %" if metric in metrics else ""
    ending = f"  left {_clock(left)}" if left else ""
    speed = f"{metrics['rows_per_second']:.0f} rows/s  {_clock(metrics['seconds'])}"
    console.print(
        f"epoch {metrics['epoch']}/{epochs}  loss {metrics['loss']:.3f}{measured}  {speed}{ending}", highlight=False, soft_wrap=True
    )

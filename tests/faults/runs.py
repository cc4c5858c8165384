"""Small real trainings in processes of their own, in which something happens at a known place.

Everything here runs in a child of a fork server that has imported torch and zoo once: a process costs little, and can be killed.

A happening is (step, stage, what): at that stage of that step the process gets the signal `what`, of every rank or of one. Stages:

    before       the batch is there, nothing is computed
    gradients    the backward pass is done
    updated      the optimizer has stepped, the running average has not
    averaged     both have
    evaluating   after the first batch of the evaluation that follows the step
    saving       the network of the run directory is half written
"""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

import zoo
from zoo import cli, files
from zoo.cli import app
from zoo.datasets import Data, Split
from zoo.train import checkpoint, loop, sampler
from zoo.train.engine import Engine, leave
from zoo.train.task import Task

NETWORK = "effnet_cbam_test"
DEEP = {"depth_multiplier": 2.0, "drop_rate": 0.2}  # five blocks with a skip that stochastic depth can drop; the toy itself has none
ROWS, STEPS_PER_EPOCH, EPOCHS = 60, 5, 2
STEPS = STEPS_PER_EPOCH * EPOCHS
COMMAND_ROWS = 320
STAGES = ("before", "gradients", "updated", "averaged", "evaluating", "saving")

OF_THE_CLOCK = ("seconds", "rows_per_second", "waiting", "saving")  # what no two runs have alike in their logs

Happening = tuple[int, str, int]


# ---------------------------------------------------------------------------------------------------------------- data


DIGITS = zoo.open_data("digits")


def _read(first: int, kind: str, index: int) -> dict[str, Any]:
    row = DIGITS.train[first + index]
    label = row["label"]
    words = {"text": f"the digit {label}, drawn by hand, number {index % 7}"}
    table = {"size": float(label), "shade": index * 0.1, "hand": ("left", "right")[index % 2]}
    if kind == "classify":
        return row
    if kind == "image-text":
        return {"image": row["image"], **words}
    # three modalities; every row lacks something or nothing, and whole micro-batches lack the table
    holes = {"image": index % 7 == 3, "text": index % 5 == 2, "table": index % 3 != 0}
    return ({} if holes["image"] else {"image": row["image"]}) | ({} if holes["text"] else words) | ({} if holes["table"] else table)


COLUMNS = {"classify": ("image", "label"), "image-text": ("image", "text"), "three": ("image", "text", "size", "shade", "hand")}


def make_data(kind: str) -> Data:
    train, held = (Split(size, functools.partial(_read, first, kind), COLUMNS[kind]) for size, first in ((ROWS, 0), (16, 200)))
    return Data(kind, train, held, classes=DIGITS.classes if kind == "classify" else None, img_size=32, augment="shift")


def make_task(kind: str, data: Data) -> Task:
    if kind == "classify":
        return zoo.create_task(NETWORK, data, model_options=DEEP, drop_path=0.3, mixup=0.4, cutmix=0.4)
    towers = {"image": NETWORK, "text": "transformer:depth=1,width=32,heads=2,dropout=0.1"}
    if kind == "three":
        towers["table"] = "mlp:columns=size+shade+hand,dropout=0.1"
    return zoo.create_task(towers, data, model_options=DEEP, drop_path=0.3, freeze_bn=True, embed_dim=32)


RECIPE = {"epochs": EPOCHS, "accumulate": 2, "ema": 0.9, "clip_grad": 1.0, "checkpoint_every": 2}


# ----------------------------------------------------------------------------------------------------------- happenings


class _Happenings:
    """Signals to this process at their places."""

    def __init__(self, happenings: Sequence[Happening]):
        self.left, self.step = list(happenings), -1

    def here(self, stage: str) -> None:
        while happening := self.waits(stage):
            self.left.remove(happening)
            os.kill(os.getpid(), happening[2])

    def waits(self, stage: str) -> Happening | None:
        return next((each for each in self.left if tuple(each[:2]) == (self.step, stage)), None)

    def install(self) -> None:
        self._after(loop.Schedule, "set", "before", begins=True)
        self._after(Engine, "clip", "gradients")
        for kind in (Task, zoo.train.Align):
            self._after(kind, "after_step", "updated")
        self._after(Task, "update_ema", "averaged")
        evaluate, write_new = loop.evaluate, files.write_new

        def evaluating(*args: Any, before_batch: Callable[[], None], **kwargs: Any) -> Any:
            batches = []

            def before() -> None:
                if len(batches) == 1:
                    self.here("evaluating")
                batches.append(1)
                before_batch()

            return evaluate(*args, before_batch=before, batch_size=8, **kwargs)

        def saving(path: Path, content: bytes) -> None:
            write_new(path, content)
            if path.name.startswith(".writing-model.safetensors") and (happening := self.waits("saving")):
                if happening[2] == signal.SIGKILL:
                    os.truncate(path, len(content) // 2)
                self.here("saving")

        loop.evaluate, files.write_new = evaluating, saving

    def _after(self, owner: type, name: str, stage: str, begins: bool = False) -> None:
        original = getattr(owner, name)

        def wrapped(instance: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(instance, *args, **kwargs)
            if begins:
                self.step = args[0]
            self.here(stage)
            return result

        setattr(owner, name, wrapped)


def unseeded() -> None:
    """A control: what is dropped is no function of the step."""
    loop.seed_everything = lambda *key: None


def order_from_the_start() -> None:
    """A control: the order of the rows depends on where the run went on."""
    original = sampler.Plan.__iter__

    def other(plan: sampler.Plan) -> Any:
        object.__setattr__(plan, "seed", plan.seed + plan.start)
        return original(plan)

    sampler.Plan.__iter__ = other


CONTROLS = {"unseeded": unseeded, "order_from_the_start": order_from_the_start}


# ------------------------------------------------------------------------------------------------- what a child process does


def train(kind: str, out: str, how: dict[str, Any]) -> None:
    data = make_data(kind)
    torch.manual_seed(0)
    task = make_task(kind, data)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    resume = (Path(out) / "config.json").exists()
    try:
        zoo.fit(task, data.train, data.eval, zoo.TrainConfig(out=out, batch_size=6 // world, resume=resume, **{**RECIPE, **how}))
    finally:
        leave()


def train_spoilt(kind: str, out: str, how: dict[str, Any]) -> None:
    """The same, with a NaN in the picture of row 7: of two processes one gets it."""
    collate = zoo.train.Classify.collate

    def spoilt(self: Any, rows: Any) -> Any:
        batch = collate(self, rows)
        batch["image"][batch["index"] == 7] = float("nan")
        return batch

    zoo.train.Classify.collate = spoilt  # type: ignore[method-assign]
    train(kind, out, how)


def soak(out: str, seen: str, workers: int, epochs: int, leaks: bool = False) -> None:
    """25 steps an epoch; what the process holds after each, a line a step. `leaks`: it keeps every batch."""
    process, kept, after_step = psutil.Process(), [], Task.after_step
    training_step = Task.training_step

    def noted(self: Task) -> None:
        after_step(self)
        holds = {
            "memory": process.memory_info().rss / 2**20,
            "files": process.num_fds(),
            "threads": process.num_threads(),
            "children": len(process.children()),
        }
        with open(seen, "a") as file:
            file.write(json.dumps(holds) + "\n")

    def leaking(self: Task, batches: Any, engine: Engine) -> torch.Tensor:
        if leaks:
            kept.append([batch["image"] + 1 for batch in batches])
        return training_step(self, batches, engine)

    Task.after_step, Task.training_step = noted, leaking  # type: ignore[method-assign]
    train_data = Split(100, functools.partial(_read, 0, "classify"), COLUMNS["classify"])
    data = dataclasses.replace(make_data("classify"), train=train_data)
    torch.manual_seed(0)
    task = zoo.create_task(NETWORK, data, mixup=0.4)
    how = {"epochs": epochs, "batch_size": 4, "ema": 0.9, "checkpoint_every": 10, "workers": workers, "clip_grad": 1.0}
    zoo.fit(task, data.train, data.eval, zoo.TrainConfig(out=out, **how))


def command(*arguments: str) -> None:
    """`zoo ...`, with little data called digits."""
    little = dataclasses.replace(DIGITS, train=DIGITS.train.take(range(COMMAND_ROWS)), eval=DIGITS.eval.take(range(32)))
    cli.train.open_data = lambda name, **_: little  # type: ignore[attr-defined]
    sys.exit(app.run(list(arguments)))


def stuck(*arguments: str) -> None:
    """The same, with a first step that never ends."""

    def training_step(*_: Any) -> None:
        print("stuck", flush=True)
        time.sleep(3600)

    Task.training_step = training_step  # type: ignore[assignment,method-assign]
    command(*arguments)


def _child(log: str, env: dict[str, str], happenings: Sequence[Happening], control: str | None, what: Callable, arguments: tuple) -> None:
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(env)
    multiprocessing.set_start_method("fork", force=True)  # for the workers of the loader, as in any program on Linux
    torch.set_num_threads(1)
    _Happenings(happenings).install()
    if control:
        CONTROLS[control]()
    what(*arguments)


# ------------------------------------------------------------------------------------------------------- what a test says


def _processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runs"])
    return context


@dataclasses.dataclass
class Started:
    """Processes of one training."""

    processes: list[Any]
    log: Path

    def wait(self, seconds: float = 300) -> list[int | None]:
        """Their exit codes; those that run longer are killed and give None."""
        codes = []
        for process in self.processes:
            process.join(seconds)
            codes.append(process.exitcode)
            if process.exitcode is None:
                process.kill()
                process.join()
        return codes

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def start(
    what: Callable,
    *arguments: Any,
    log: Path,
    happenings: Sequence[Happening] = (),
    rank: int | None = None,
    world: int = 1,
    control: str | None = None,
) -> Started:
    """Start `what` in a process, or in `world` of them; the happenings are for all, or for the one of this rank."""
    env: list[dict[str, str]] = [{}]
    if world > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        same = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = [{**same, "RANK": str(each), "LOCAL_RANK": str(each)} for each in range(world)]
    processes = []
    for number, its in enumerate(env):
        mine = happenings if rank in (None, number) else ()
        process = _processes().Process(target=_child, args=(str(log), its, mine, control, what, arguments))
        process.start()
        processes.append(process)
    return Started(processes, log)


def _sha(value: Any) -> str:
    """sha256 of tensors, numbers and what holds them, whatever order or memory layout they have."""
    hashed = hashlib.sha256()

    def add(each: Any) -> None:
        if torch.is_tensor(each):
            hashed.update(f"{each.dtype}{tuple(each.shape)}".encode())
            hashed.update(each.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if each.numel() else b"")
        elif isinstance(each, dict):
            for key in sorted(each, key=str):
                hashed.update(str(key).encode())
                add(each[key])
        elif isinstance(each, list | tuple):
            for one in each:
                add(one)
        else:
            hashed.update(repr(each).encode())

    add(value)
    return hashed.hexdigest()


def digest(out: Path) -> dict[str, str]:
    """sha256 of all that a training leaves: weights, running average and optimizer of the last checkpoint, the run's network, its log."""
    tensors, optimizer, state = checkpoint.read(checkpoint.checkpoints(out / "checkpoints")[-1])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timeless = [{key: value for key, value in line.items() if key not in OF_THE_CLOCK} for line in lines]
    files = sorted([*out.glob("*.safetensors"), *out.glob("skipped.jsonl")])
    return {
        "step": str(state["step"]),
        "weights": _sha(tensors["model"]),
        "average": _sha(tensors["ema"]),
        "optimizer": _sha(optimizer),
        "log": _sha(timeless),
        **{file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    }


def random_happenings(seed: int, count: int, number: int, anywhere: bool = True) -> list[list[Happening]]:
    """For each of `count` runs one happening, at later and later steps, so that every run gets to its own; only in steps unless anywhere:
    of several processes one evaluates and saves."""
    choose = np.random.default_rng(seed)
    steps = sorted(choose.choice(np.arange(1, STEPS), count, replace=False).tolist())
    happenings = []
    for step in steps:
        ends = (step + 1) % STEPS_PER_EPOCH == 0
        stage = str(choose.choice(STAGES if ends and anywhere else STAGES[:4]))
        happenings.append([(step, stage, number)])
    return happenings

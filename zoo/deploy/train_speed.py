"""Our loop beside timm's own training step: the same network, pictures, augmentation, precision and batch, in one run.

The loop is the real one, `fit`, from files on disk to the optimizer; after every few of its steps it is held, and timm's side takes as
many: its loader, its `ClassificationTask`, its optimizer and schedule, in the order of its training script, once with the network as it is
made and once in channels_last, which that script has as an option. So what else the machine is doing meets all, and a ratio is taken within
a round. Two clocks: the wall's, which is what a person waits for, and this process's processor time, which a busy machine disturbs less but
which does not see the workers.
"""

import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import timm.data
import torch
from PIL import Image
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask
from torch import nn

from ..datasets.folder import read_folder
from ..datasets.glyphs import glyphs
from ..train import Classify, Preprocess, TrainConfig, fit
from .rounds import Spread, at_least_one, in_turn, on_threads, spread

LAYOUTS = {"timm": torch.contiguous_format, "timm channels_last": torch.channels_last}
_CLASSES = 10
_CHARACTERS = 40  # in twelve faces
_LR, _DECAY, _SMOOTHING = 1e-3, 0.02, 0.1


@dataclass(frozen=True)
class Taken:
    """One side's share of a round: seconds by the two clocks, and those spent waiting for a batch."""

    wall: float
    processor: float
    waiting: float = 0.0


@dataclass(frozen=True)
class TrainSide:
    """Medians over the rounds.

    Args:
        images_per_second: by the wall clock.
        images_per_processor_second: by the processor time of the training process.
        waiting: share of the wall clock's time in which the step waited for its batch.
    """

    images_per_second: float
    images_per_processor_second: float
    waiting: float


@dataclass(frozen=True)
class TrainRatio:
    """How many times as many images a second the loop takes as timm's side; above 1 it is faster."""

    wall: Spread
    processor: Spread


@dataclass(frozen=True)
class TrainMeasured:
    """`sides` has "ours" and timm's; `ratios` is of ours to each of timm's."""

    sides: dict[str, TrainSide]
    ratios: dict[str, TrainRatio]


def write_pictures(folder: Path, size: int, seed: int = 0) -> None:
    """train/CLASS/*.jpg and val/CLASS/*.jpg: characters on a noisy ground, `size` pixels a side, about as large as photos are as files."""
    rows = glyphs(_CHARACTERS).train
    rng = np.random.default_rng(seed)
    for index in range(len(rows)):
        drawn = np.asarray(rows[index]["image"].resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = np.clip(drawn * 0.7 + rng.normal(40, 25, drawn.shape), 0, 255).astype(np.uint8)
        for split in ("train", "val") if index < _CLASSES else ("train",):
            file = folder / split / str(index % _CLASSES) / f"{index}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).save(file, quality=90)


class _Repeated(timm.data.readers.reader.Reader):
    """Files over and over, so that an epoch does not end while it is measured; what timm's `ImageDataset` reads from."""

    def __init__(self, root: Path, size: int):
        super().__init__()
        files = sorted(root.glob("*/*.jpg"))
        self.samples = [(file, int(file.parent.name)) for file in itertools.islice(itertools.cycle(files), size)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        file, label = self.samples[index]
        return str(file), label

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        return str(self.samples[index][0])


class _Timms:
    """timm's side: what its training script does in a step, on a CPU."""

    def __init__(self, network: nn.Module, loader: Any, steps: int, layout: torch.memory_format, precision: str, compile: bool):
        self.layout, self.loader = layout, loader
        self.task = ClassificationTask(network, criterion_kwargs={"smoothing": _SMOOTHING}, verbose=False)
        network.to(memory_format=layout)
        if compile:
            self.task.compile()
        self.optimizer = create_optimizer_v2(network, opt="adamw", lr=_LR, weight_decay=_DECAY)
        self.scheduler, _ = create_scheduler_v2(self.optimizer, sched="cosine", num_epochs=1, updates_per_epoch=steps)
        self.autocast = nullcontext() if precision == "fp32" else torch.autocast("cpu", torch.bfloat16)
        self.batches = iter(loader)
        self.step = 0

    def run(self, steps: int) -> Taken:
        self.task.train()
        waiting, began = 0.0, (time.perf_counter(), time.process_time())
        for _ in range(steps):
            asked = time.perf_counter()
            image, label = next(self.batches)
            waiting += time.perf_counter() - asked
            with self.autocast:
                loss = self.task(image.contiguous(memory_format=self.layout), label)["loss"]
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            self.scheduler.step_update(self.step)
        return Taken(time.perf_counter() - began[0], time.process_time() - began[1], waiting)


class _Turns:
    """What the loop calls after every step: the others take theirs, and everybody's time is written down."""

    def __init__(self, others: dict[str, _Timms], steps: int):
        self.others, self.steps, self.count = others, steps, 0
        self.rounds: list[dict[str, Taken]] = []
        self.began = time.perf_counter(), time.process_time()

    def __call__(self) -> None:
        self.count += 1
        if self.count % self.steps:
            return
        wall, processor = self.began
        taken = {"ours": Taken(time.perf_counter() - wall, time.process_time() - processor)}
        for name in in_turn(len(self.rounds), self.others):
            taken[name] = self.others[name].run(self.steps)
        self.rounds.append(taken)
        self.began = time.perf_counter(), time.process_time()


def bench_train(
    model: str = "effnet_cbam_b0",
    *,
    batch_size: int = 16,
    img_size: int = 224,
    workers: int = 0,
    threads: int = 1,
    rounds: int = 5,
    steps: int = 6,
    precision: str = "fp32",
    compile: bool = False,
    recompute: bool = False,
    seed: int = 0,
) -> TrainMeasured:
    """Measure our loop beside timm's training step on a CPU; the first round, which pays for everything new, is not counted.

    Args:
        model: a timm name.
        batch_size, img_size: of a step.
        workers: processes that read pictures, of each side; they go on reading while the other side takes its turn.
        threads: of the training process.
        rounds, steps: how many rounds, of how many steps of each side.
        precision: "fp32" or "bf16", of both sides.
        compile: torch.compile, of all sides; the first round then takes minutes.
        recompute: of our loop.
        seed: of weights and pictures.

    Raises:
        ValueError: a number below 1, or a precision that a CPU has not.
    """
    numbers = {"batch_size": batch_size, "img_size": img_size, "threads": threads, "rounds": rounds, "steps": steps}
    at_least_one(numbers.items())
    total = (rounds + 1) * steps

    def network() -> nn.Module:
        torch.manual_seed(seed)
        return timm.create_model(model, num_classes=_CLASSES)

    with tempfile.TemporaryDirectory() as folder, on_threads(threads), torch.random.fork_rng(devices=[]):
        write_pictures(Path(folder), max(32, round(img_size * 8 / 7)), seed)
        data = read_folder(folder)
        ours = network()
        preprocess = Preprocess.of(ours, img_size=img_size, augment="crop")
        assert data.classes is not None
        task = Classify(ours, name=model, preprocess=preprocess, classes=data.classes, smoothing=_SMOOTHING)
        others = {}
        for name, layout in LAYOUTS.items():
            loader = timm.data.create_loader(
                timm.data.ImageDataset(folder, reader=_Repeated(Path(folder) / "train", total * batch_size)),
                preprocess.input_size,
                batch_size,
                is_training=True,
                scale=(0.35, 1.0),  # as the augmentation "crop" has it
                interpolation=preprocess.interpolation,
                mean=preprocess.mean,
                std=preprocess.std,
                num_workers=workers,
                device=torch.device("cpu"),
            )
            others[name] = _Timms(network(), loader, total, layout, precision, compile)
        turns = _Turns(others, steps)
        task.after_step = turns  # type: ignore[method-assign]
        config = TrainConfig(
            epochs=1,
            batch_size=batch_size,
            lr=_LR,
            weight_decay=_DECAY,
            warmup=0.0,
            precision=precision,
            device="cpu",
            workers=workers,
            compile=compile,
            recompute=recompute,
            seed=seed,
        )
        metrics = fit(task, data.train.take(np.arange(total * batch_size) % len(data.train)), None, config)
        del task, others, turns.others
        gc.collect()  # timm's loaders keep their workers until they go
    waited = metrics["waiting"] * total * batch_size / metrics["rows_per_second"]
    return _measured(turns.rounds, steps * batch_size, waited)


def _measured(rounds: Sequence[dict[str, Taken]], images: int, waited: float) -> TrainMeasured:
    whole = sum(each["ours"].wall for each in rounds)
    counted = rounds[1:]
    sides = {}
    for name in counted[0]:
        waiting = waited / whole if name == "ours" else statistics.median(each[name].waiting / each[name].wall for each in counted)
        wall, processor = (statistics.median(images / getattr(each[name], clock) for each in counted) for clock in ("wall", "processor"))
        sides[name] = TrainSide(wall, processor, waiting)
    ratios = {
        name: TrainRatio(
            *(spread([getattr(each[name], clock) / getattr(each["ours"], clock) for each in counted]) for clock in ("wall", "processor"))
        )
        for name in sides
        if name != "ours"
    }
    return TrainMeasured(sides, ratios)

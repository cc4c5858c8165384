"""Small trainings in as many processes as there are, run by torchrun or in one; see test_curves.py.

runs.py FOLDER CASE ...     each case into a folder of its own

In float64, so that what differs is what is computed and not how it was rounded.
"""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import zoo
from zoo.datasets import Data, Split
from zoo.train.engine import leave
from zoo.train.sampler import Plan

torch.set_num_threads(1)
ROWS = 16  # in a step, of all processes together
WORDS = ("dark picture", "bright picture")
COLUMNS = ("image", "label", "text")


def read(index: int) -> dict:
    noise = np.random.default_rng(index).integers(0, 60, (16, 16, 3))
    picture = Image.fromarray((noise + (index % 2) * 180).astype(np.uint8))
    return {"image": picture, "label": index % 2, "text": f"{WORDS[index % 2]} {index // 2}"}


TEXTLESS = {row for _, row in list(Plan(48, ROWS, 1))[1]}  # the rows of the second step: no process has a text in it


def read_with_holes(index: int) -> dict:
    row = read(index)
    if index % 4 or index in TEXTLESS:  # few enough that a process lacks texts in many a step
        del row["text"]
    return row


def data(reader=read, eval: int = 11) -> Data:
    split = Split(48, reader, COLUMNS)
    return Data("two kinds", split, Split(eval, read, COLUMNS), classes=("dark", "bright"), img_size=32, augment="shift")


def in_float64(task):
    """The task in float64, its pictures too."""
    collate = task.collate

    def widened(rows):
        batch = collate(rows)
        return {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}

    task.collate = widened
    return task.double()


def classifier(**options):
    return zoo.create_task("effnet_cbam_test", data(), drop_path=0.0, **options)


def joint(reader=read, **options):
    towers = {"image": "effnet_eca_test", "text": "transformer:width=16,depth=2,heads=2"}
    return zoo.create_task(towers, data(reader), drop_path=0.0, embed_dim=8, **options)


CONFIG = zoo.TrainConfig(epochs=2, lr=1e-2, ema=0.9, clip_grad=1.0, device="cpu")
CASES = {
    "classifier, synchronised": (lambda: classifier(), data, {"sync_bn": True}),
    "classifier, frozen": (lambda: classifier(freeze_bn=True), data, {"accumulate": 2}),
    "classifier, neither": (lambda: classifier(), data, {}),
    "joint, synchronised": (lambda: joint(), data, {"sync_bn": True}),
    "joint, sharded": (lambda: joint(freeze_bn=True), data, {"shard": ("text",)}),
    "joint, sharded, with holes": (
        lambda: joint(read_with_holes, freeze_bn=True),
        lambda: data(read_with_holes),
        {"shard": ("text",), "accumulate": 2},
    ),
}


def run(case: str, out: Path, **changes) -> dict:
    """Train; the metrics of the last epoch."""
    make, rows, own = CASES[case]
    world = int(os.environ.get("WORLD_SIZE", "1"))
    config = replace(CONFIG, out=str(out), **own)
    config = replace(config, batch_size=ROWS // world // config.accumulate, **changes)
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # the first process's weights are everybody's
    task, used = in_float64(make()), rows()
    return zoo.fit(task, used.train, used.eval, config)


def move(folder: Path) -> None:
    """Half of a sharded run goes on whole, and half of a whole one sharded."""
    for name, first, then in (("whole", ("text",), ()), ("sharded", (), ("text",))):
        out = folder / f"joint, then {name}"
        run("joint, sharded", out, shard=first)
        if os.environ.get("RANK", "0") == "0":
            shutil.rmtree(max((out / "checkpoints").glob("step-*")))
        torch.distributed.barrier()
        run("joint, sharded", out, shard=then, resume=True)


def main() -> None:
    folder, *cases = sys.argv[1:]
    for case in cases:
        move(Path(folder)) if case == "move" else run(case, Path(folder) / case)
    leave()


if __name__ == "__main__":
    main()

"""Pictures and their names: trained on two vendors' emoji, searched in a third's, which was never seen. Writes emoji.md and emoji.json.

    python docs/results/emoji.py manifest EMOJI_FOLDER emoji.csv           one line a picture: what `zoo train --data` reads
    python docs/results/emoji.py start LITE0_WEIGHTS start                 real weights with CBAM grafted in: what `image=start/` reads
    python docs/results/emoji.py run emoji.csv start [--seeds 3] [--jobs 2]   the table; what emoji.json holds is not computed again

EMOJI_FOLDER holds emoji.csv and a folder of 72 x 72 pictures a vendor. A name is a row's caption; pictures that a vendor draws alike for
several emoji have one id, so that any of them counts as found. LITE0_WEIGHTS are of timm's `tf_efficientnet_lite0` without its classifier.
"""

import argparse
import csv
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file

import zoo
from zoo.train.randomness import seed_everything

HERE = Path(__file__).parent
TRAIN, EVAL = ("openmoji", "twemoji"), "noto"
RECIPE: dict[str, Any] = {"augment": "draw", "head": {"image": "stages"}, "embed_dim": 256}
TEXT = "bag"
CONFIG = zoo.TrainConfig(batch_size=128, lr=5e-3)
WAYS = ("text->image", "image->text")


def write_manifest(folder: Path, out: Path) -> None:
    with (folder / "emoji.csv").open(newline="") as file:
        emoji = list(csv.DictReader(file))
    with out.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["image", "caption", "id", "split"])
        for vendor in (*TRAIN, EVAL):
            for row in emoji:
                if row[vendor] == "1":
                    same = row[f"dup_{vendor}"] or row["hexcode"]
                    known = f"{EVAL}-{same}" if vendor == EVAL else same
                    picture = (folder / vendor / f"{row['hexcode']}.png").resolve()
                    lines.writerow([picture, row["name"], known, "eval" if vendor == EVAL else "train"])


def write_start(weights: Path, out: Path) -> None:
    """The real network with a CBAM in each block that takes over during the training: at first it computes what it did."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    network.load_state_dict(load_file(weights))
    print(zoo.swap_attention(network, "cbam", keep="graft"))
    zoo.save_model(network, out, data_config={"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3})


def open_clip_loss(a: torch.Tensor, b: torch.Tensor, *, logit_scale: torch.Tensor, logit_bias: Any = None, ids: Any = None) -> torch.Tensor:
    """open_clip's own loss, as its trainer calls it in one process. It knows no ids: two pictures of one name are negatives."""
    from open_clip.loss import ClipLoss

    return ClipLoss()(a, b, logit_scale[0])


open_clip_loss.init_logit_scale = math.log(1 / 0.07)  # type: ignore[attr-defined]  # open_clip's; clamped to ln 100 after each step, as ours
open_clip_loss.init_logit_bias = None  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Recipe:
    image: str  # a tower's name; "start" is the folder that `start` writes
    loss: Any
    img_size: int
    epochs: int
    part_lr: Mapping[str, float] | None = None


REAL = Recipe("start", "siglip", 96, 10, {"towers.image": 3e-4})
SCRATCH = Recipe("effnet_cbam_b0", "clip", 64, 15)  # siglip learns little in so short a time from nothing: 7.3 % with seed 0
RUNS = {
    "real weights, CBAM grafted in": REAL,
    "real weights, CBAM grafted in, open_clip's loss": replace(REAL, loss=open_clip_loss),
    "from scratch": SCRATCH,
    "from scratch, open_clip's loss": replace(SCRATCH, loss=open_clip_loss),
}


def trained(manifest: Path, start: Path, what: str, seed: int, threads: int) -> dict[str, float]:
    """One run, in a process of its own: what the command of the page does."""
    torch.set_num_threads(threads)
    data = zoo.open_data(manifest)
    recipe = RUNS[what]
    seed_everything(seed)
    image = f"{start.resolve()}/" if recipe.image == "start" else recipe.image
    task = zoo.create_task({"image": image, "text": TEXT}, data, loss=recipe.loss, img_size=recipe.img_size, **RECIPE)
    began = time.monotonic()
    metrics = zoo.fit(task, data.train, None, replace(CONFIG, epochs=recipe.epochs, part_lr=recipe.part_lr, seed=seed))
    minutes = (time.monotonic() - began) / 60
    found = zoo.evaluate(task, data.eval)
    return {"minutes": minutes, "loss": metrics["loss"], **{way: found[way]["R@1"] for way in WAYS}}


def write(found: dict[str, dict[str, float]], seeds: int, jobs: int, rows: int, threads: int) -> None:
    lines = [
        "# Emoji of a vendor that was never seen",
        "",
        f"Trained on the pictures of {' and '.join(TRAIN)} and their names; then R@1 in percent over all {rows:,} pictures of {EVAL},",
        "names to pictures and pictures to names. A picture that the vendor drew for several emoji counts as found for each of them.",
        "",
        f"`python docs/results/emoji.py run emoji.csv start --seeds {seeds} --jobs {jobs}` (how to make the two is in its first lines).",
        "A run is",
        "",
        f"    zoo train image=start/ text={TEXT} --data emoji.csv --head image=stages --loss {REAL.loss} --augment draw \\",
        f"        --img-size {REAL.img_size} --epochs {REAL.epochs} --batch-size {CONFIG.batch_size} --lr {CONFIG.lr:g} \\",
        f"        --tower-lr image={(REAL.part_lr or {})['towers.image']:g} --out runs/emoji",
        "",
        f"and from scratch `image={SCRATCH.image} --loss {SCRATCH.loss}`, {SCRATCH.img_size} pixels, {SCRATCH.epochs} epochs, without",
        "`--tower-lr`. open_clip's loss is its `ClipLoss`, without ids, its logit scale started and clamped as its trainer does; towers,",
        "data, seeds and steps are the same. The recipe from real weights was chosen by about ten short runs that were measured on these",
        "same pictures, with our losses: its numbers are a little too good, most of all beside the other loss.",
        "",
        "| run | name -> picture, median | each seed | picture -> name, median | each seed | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for what in RUNS:
        of_seeds = [found[key] for seed in range(seeds) if (key := f"{what} {seed}") in found]
        if of_seeds:
            ways = [[each[way] for each in of_seeds] for way in WAYS]
            cells = [f"{statistics.median(way):.1f} | {', '.join(f'{each:.1f}' for each in way)}" for way in ways]
            lines.append(f"| {what} | {' | '.join(cells)} | {statistics.median(each['minutes'] for each in of_seeds):.0f} |")
    packages = ", ".join(f"{package} {version(package)}" for package in ("effnet-zoo", "torch", "timm", "open_clip_torch"))
    lines += ["", f"{packages}, Python {platform.python_version()}, {platform.machine()} CPU, threads of a run: {threads}, float32."]
    (HERE / "emoji.md").write_text("\n".join(lines) + "\n")


def run(manifest: Path, start: Path, seeds: int, jobs: int) -> None:
    file = HERE / "emoji.json"
    found: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    asked = [(what, seed) for what in RUNS for seed in range(seeds) if f"{what} {seed}" not in found]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(trained, manifest, start, what, seed, threads): (what, seed) for what, seed in asked}
        for done in as_completed(waiting):
            what, seed = waiting[done]
            found[f"{what} {seed}"] = done.result()
            file.write_text(json.dumps(found, indent=0) + "\n")
            print(f"{what}, seed {seed}: {found[f'{what} {seed}']}", flush=True)
    write(found, seeds, jobs, len(zoo.open_data(manifest).eval), threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, words in (("manifest", ("folder", "out")), ("start", ("weights", "out")), ("run", ("manifest", "start"))):
        each = verbs.add_parser(verb)
        for word in words:
            each.add_argument(word, type=Path)
    verbs.choices["run"].add_argument("--seeds", type=int, default=3)
    verbs.choices["run"].add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    if asked.verb == "manifest":
        write_manifest(asked.folder, asked.out)
    elif asked.verb == "start":
        write_start(asked.weights, asked.out)
    else:
        run(asked.manifest, asked.start, asked.seeds, asked.jobs)


if __name__ == "__main__":
    main()

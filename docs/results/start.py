"""Does a network learn small data from scratch, and what does its start have to do with it? Writes start.md beside this file.

    python docs/results/start.py [SEEDS]

EfficientNet-B0 on digits with the defaults of `zoo train` (8 epochs, 32 px, batch 32), each gate as these networks start (calm), and beside
it timm's own network with timm's version of the gate and timm's initialisation, trained by the same loop with the same seeds.
"""

import platform
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

import timm

import zoo
from zoo.train.randomness import seed_everything

OURS = {f"effnet_{gate}_b0": {} for gate in ("none", "se", "eca", "cbam")}
TIMMS = {
    "efficientnet_b0": {},
    "efficientnet_b0, se_layer=eca": {"se_layer": "eca"},
    "efficientnet_b0, se_layer=cbam": {"se_layer": "cbam"},
}


def accuracy(name: str, options: dict, seed: int) -> float:
    data = zoo.open_data("digits")
    seed_everything(seed)
    network = timm.create_model(name.partition(",")[0], num_classes=10, drop_path_rate=0.05, **options)
    return zoo.fit(zoo.create_task(network, data), data.train, data.eval, zoo.TrainConfig(seed=seed))["top1"]


def main(seeds: int = 3) -> None:
    lines = [
        "# How a network starts decides whether it learns",
        "",
        f"`python docs/results/start.py {seeds}`: EfficientNet-B0 from scratch on digits (1,437 rows to train on, 360 to",
        f"evaluate on), the defaults of `zoo train`, seeds 0 to {seeds - 1}, top-1 in percent after the last epoch. The last rows are",
        "timm's own networks, gates and initialisation in the same loop. One picture is 0.28 points: a point says nothing.",
        "",
        "| network | median | each seed |",
        "|---|---|---|",
    ]
    for name, options in {**OURS, **TIMMS}.items():
        found = [accuracy(name, options, seed) for seed in range(seeds)]
        lines.append(f"| {name} | {statistics.median(found):.1f} | {', '.join(f'{each:.1f}' for each in found)} |")
        print(lines[-1], flush=True)
    packages = ", ".join(f"{package} {version(package)}" for package in ("effnet-zoo", "torch", "timm"))
    lines += ["", f"{packages}, Python {platform.python_version()}, {platform.machine()} CPU, float32."]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Does every gate learn small data from scratch, at the first try? Writes gates.md and gates.json beside this file.

    python docs/results/gates.py [--seeds 3] [--jobs 2] [GATE ...]

EfficientNet-B0 on digits with the defaults of `zoo train` (8 epochs, 32 px, batch 32): each gate as these networks start (calm), and beside
it timm's own network with timm's version of the gate and timm's initialisation, trained by the same loop with the same seeds. A result that
gates.json holds already is not computed again: remove the file to start anew.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
from importlib.metadata import version
from pathlib import Path

import timm
import torch

import zoo
from registry import ATTENTION
from zoo.train.randomness import seed_everything

HERE = Path(__file__).parent
FIRST = ("se", "none")
TIMMS = ("se", "ese", "eca", "ceca", "cbam", "lcbam", "coord", "scoord", "ela", "gc", "gca", "nl")  # in timm under this se_layer
WITHIN = 2.0  # points of `se`


def accuracy(job: tuple[str, str, int]) -> tuple[str, str, int, float]:
    """Top-1 after the last epoch, in percent."""
    whose, gate, seed = job
    torch.set_num_threads(1)
    data = zoo.open_data("digits")
    seed_everything(seed)
    if whose == "zoo":
        network = timm.create_model(f"effnet_{gate}_b0", num_classes=10, drop_path_rate=0.05)
    else:
        options = {} if gate == "se" else {"se_layer": gate}  # timm's "se" is another class than its EfficientNet's
        network = timm.create_model("efficientnet_b0", num_classes=10, drop_path_rate=0.05, **options)
    try:
        task = zoo.create_task(network, data)
        zoo.fit(task, data.train, config=zoo.TrainConfig(seed=seed))
        top1 = zoo.evaluate(task, data.eval)["top1"]
    except FloatingPointError:
        top1 = float("nan")  # timm's start can blow up; a table says so
    return whose, gate, seed, top1


def write(found: dict[str, float], seeds: int) -> None:
    def row(whose: str, gate: str) -> list[float]:
        return [found[key] for seed in range(seeds) if (key := f"{whose} {gate} {seed}") in found]

    def cells(values: list[float]) -> str:
        return f"{statistics.median(values):.1f} | {', '.join(f'{value:.1f}' for value in values)}" if values else " | "

    base = statistics.median(row("zoo", "se"))
    lines = [
        "# Every gate learns small data from scratch",
        "",
        f"`python docs/results/gates.py --seeds {seeds}`: EfficientNet-B0 on digits (1,437 rows to train on, 360 to evaluate on),",
        f"the defaults of `zoo train`, seeds 0 to {seeds - 1}, top-1 in percent after the last epoch. On the right timm's own network",
        "with timm's version of the gate and timm's initialisation, in the same loop. One picture is 0.28 points: differences of a",
        "point say nothing, and this table is no ranking. It shows that the start decides whether a run of this size learns at all",
        "([why](../decisions/calm-start.md)).",
        "",
        "| gate | median | each seed | timm's: median | each seed |",
        "|---|---|---|---|---|",
    ]
    low = []
    for gate in [*FIRST, *sorted(set(ATTENTION) - set(FIRST))]:
        ours, theirs = row("zoo", gate), row("timm", gate)
        if not ours:
            continue
        if statistics.median(ours) < base - WITHIN:
            low.append(gate)
        lines.append(f"| {gate} | {cells(ours)} | {cells(theirs)} |")
    said = f"All medians are within {WITHIN:g} points of `se`." if not low else f"More than {WITHIN:g} points below `se`: {', '.join(low)}."
    left = sorted(gate for gate in ATTENTION if not row("zoo", gate))
    said += f" Not run yet: {', '.join(left)}." if left else ""
    packages = ", ".join(f"{package} {version(package)}" for package in ("effnet-zoo", "torch", "timm"))
    lines += ["", said, "", f"{packages}, Python {platform.python_version()}, {platform.machine()} CPU, one thread a run, float32."]
    (HERE / "gates.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gates", nargs="*", default=sorted(ATTENTION))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    file = HERE / "gates.json"
    found: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    jobs = [
        (whose, gate, seed)
        for whose in ("zoo", "timm")
        for seed in range(asked.seeds)
        for gate in asked.gates
        if whose == "zoo" or gate in TIMMS
        if f"{whose} {gate} {seed}" not in found
    ]
    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        for done, (whose, gate, seed, top1) in enumerate(pool.imap_unordered(accuracy, jobs), 1):
            found[f"{whose} {gate} {seed}"] = top1
            file.write_text(json.dumps(dict(sorted(found.items())), indent=0) + "\n")
            print(f"{done}/{len(jobs)}  {whose} {gate} seed {seed}: {top1:.1f}", flush=True)
    write(found, asked.seeds)


if __name__ == "__main__":
    main()

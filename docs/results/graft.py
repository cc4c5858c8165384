"""What a trained network loses and keeps when its attention is swapped, grafted or fresh. Writes graft.md and graft.json beside this file.

    python docs/results/graft.py sign_digits_dev_jpeg.npz [--seeds 3] [--gates cbam eca] [--epochs 4]

`effnet_se_b0` learns photographs of hand signs (0 to 9; other people in the evaluation rows), then each gate is swapped in, once with
keep="graft" and once with keep="fresh", and both are trained on with the same recipe and seed. The file holds JPEG pictures end to end
(`data`, `offsets`), `labels`, `classes` and `is_val`. A result that graft.json holds already is not computed again.
"""

import argparse
import copy
import io
import json
import platform
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

import zoo
from zoo.datasets import Data
from zoo.train.randomness import seed_everything

HERE = Path(__file__).parent
SIZE, BASE_EPOCHS, BATCH = 48, 12, 32
LR, LR_AFTER = 2e-3, 3e-4


def read(path: str) -> Data:
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    pictures = [
        Image.open(io.BytesIO(arrays["data"][start:end].tobytes())).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        for start, end in zip(arrays["offsets"], arrays["offsets"][1:], strict=False)
    ]
    rows = [{"image": picture, "label": int(label)} for picture, label in zip(pictures, arrays["labels"], strict=True)]
    train, held = ([row for row, out in zip(rows, arrays["is_val"], strict=True) if bool(out) is which] for which in (False, True))
    return Data("signs", train, held, classes=tuple(map(str, arrays["classes"])), img_size=SIZE, augment="shift")


def learn(network: torch.nn.Module, data: Data, epochs: int, lr: float, seed: int) -> list[float]:
    """Top-1 after every epoch."""
    with tempfile.TemporaryDirectory() as out:
        config = zoo.TrainConfig(out=out, epochs=epochs, lr=lr, seed=seed, batch_size=BATCH)
        zoo.fit(zoo.create_task(network, data), data.train, data.eval, config)
        return [json.loads(line)["top1"] for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def one_seed(data: Data, seed: int, gates: list[str], epochs: int, found: dict[str, list[float]], keep_file) -> None:
    wanted = [(gate, keep) for gate in gates for keep in ("graft", "fresh") if f"{gate} {keep} {seed}" not in found]
    if not wanted:
        return
    seed_everything(seed)
    base = timm.create_model("effnet_se_b0", num_classes=10, drop_path_rate=0.05)
    before = learn(base, data, BASE_EPOCHS, LR, seed)[-1]
    for gate, keep in wanted:
        network = copy.deepcopy(base)
        seed_everything(seed)
        zoo.swap_attention(network, gate, keep=keep)
        after = zoo.evaluate(zoo.create_task(network, data), data.eval)["top1"]
        found[f"{gate} {keep} {seed}"] = [before, after, *learn(network, data, epochs, LR_AFTER, seed)]
        keep_file(found)
        print(f"seed {seed} {gate} {keep}: {found[f'{gate} {keep} {seed}']}", flush=True)


def write(found: dict[str, list[float]], seeds: int, gates: list[str], epochs: int, command: str) -> None:
    def cells(gate: str, keep: str) -> str:
        rows = [found[f"{gate} {keep} {seed}"] for seed in range(seeds)]
        columns = list(zip(*rows, strict=True))
        shown = [columns[1], *(columns[1 + epoch] for epoch in sorted({1, 2, epochs}))]
        return " | ".join(f"{statistics.median(each):.1f} ({', '.join(f'{value:.1f}' for value in each)})" for each in shown)

    first = [found[f"{gates[0]} graft {seed}"][0] for seed in range(seeds)]
    heads = " | ".join(f"after {epoch} epoch{'s' * (epoch > 1)}" for epoch in sorted({1, 2, epochs}))
    lines = [
        "# A swap that keeps what was learned",
        "",
        f"`{command}`:",
        f"`effnet_se_b0` from scratch on 1,436 photographs of hand signs at {SIZE} px ({BASE_EPOCHS} epochs), evaluated on 210 of other",
        f"people; then another attention in all 16 blocks, and {epochs} more epochs (learning rate {LR_AFTER:g}; over the first half of",
        "them the grafted gates take over, after the last the old ones are dropped). Top-1 in percent, median of",
        f"{seeds} seeds (each seed). One picture is 0.48 points.",
        "",
        f"Before the swap: {statistics.median(first):.1f} ({', '.join(f'{value:.1f}' for value in first)}).",
        "",
        f"| new gate | keep | directly after the swap | {heads} |",
        f"|---|---|---|{'---|' * (len(sorted({1, 2, epochs})))}",
        *(f"| {gate} | {keep} | {cells(gate, keep)} |" for gate in gates for keep in ("graft", "fresh")),
    ]
    packages = ", ".join(f"{package} {version(package)}" for package in ("effnet-zoo", "torch", "timm"))
    lines += ["", f"{packages}, Python {platform.python_version()}, {platform.machine()} CPU, one thread, float32."]
    (HERE / "graft.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="the .npz of hand signs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gates", nargs="+", default=["cbam", "eca"])
    parser.add_argument("--epochs", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    file = HERE / "graft.json"
    found: dict[str, list[float]] = json.loads(file.read_text()) if file.exists() else {}
    data = read(asked.data)

    def remember(now: dict[str, list[float]]) -> None:
        file.write_text(json.dumps(dict(sorted(now.items())), indent=0) + "\n")

    for seed in range(asked.seeds):
        one_seed(data, seed, asked.gates, asked.epochs, found, remember)
    options = f"--seeds {asked.seeds} --gates {' '.join(asked.gates)} --epochs {asked.epochs}"
    command = f"python docs/results/graft.py {Path(asked.data).name} {options}"
    write(found, asked.seeds, asked.gates, asked.epochs, command)


if __name__ == "__main__":
    main()

"""Photographs of hand signs, from real weights: how good and how long. Writes sign_digits.md and sign_digits.json beside this file.

    python docs/results/sign_digits.py manifest sign_digits_dev_jpeg.npz signs     pictures and signs/signs.csv, for `zoo train --data`
    python docs/results/sign_digits.py run signs/signs.csv LITE0_WEIGHTS [--seeds 3]  the table; what sign_digits.json holds is kept

The .npz holds JPEG pictures end to end (`data`, `offsets`), `labels`, `classes`, `participant` and `is_val`: other people in the evaluation
rows. LITE0_WEIGHTS are of timm's `tf_efficientnet_lite0` without its classifier. Each run is the command that the table names.
"""

import argparse
import csv
import json
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from zoo.cli.app import run as zoo

HERE = Path(__file__).parent
MODEL = "effnet_cbam_lite0"
RECIPE = "--img-size 128 --augment crop --epochs 6 --batch-size 32 --lr 1e-3"
THREADS = 1


def write_manifest(file: Path, out: Path) -> None:
    with np.load(file) as opened:
        arrays = {key: opened[key] for key in opened.files}
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    with (out / "signs.csv").open("w", newline="") as table:
        lines = csv.writer(table)
        lines.writerow(["image", "label", "participant", "split"])
        for row, (first, last) in enumerate(zip(arrays["offsets"], arrays["offsets"][1:], strict=False)):
            picture = Path("pictures") / f"{row:04d}.jpg"
            (out / picture).write_bytes(arrays["data"][first:last].tobytes())
            label, held = str(arrays["classes"][arrays["labels"][row]]), bool(arrays["is_val"][row])
            lines.writerow([picture.as_posix(), label, arrays["participant"][row], "eval" if held else "train"])


def trained(manifest: Path, weights: Path, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        began, computed = time.monotonic(), time.process_time()
        words = [MODEL, "--init", str(weights), "--data", str(manifest), *RECIPE.split(), "--seed", str(seed), "--out", out, "--overwrite"]
        if code := zoo(["train", *words]):
            raise SystemExit(code)
        minutes, processor = (time.monotonic() - began) / 60, (time.process_time() - computed) / 60
        epochs = [json.loads(line)["top1"] for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return {"top1": epochs[-1], "minutes": minutes, "processor": processor, "epochs": epochs}  # type: ignore[dict-item]


def write(found: dict[str, dict[str, float]], seeds: int) -> None:
    runs = [found[str(seed)] for seed in range(seeds) if str(seed) in found]
    middle = {key: statistics.median(each[key] for each in runs) for key in ("top1", "minutes", "processor")}
    lines = [
        "# Hand signs, from real weights",
        "",
        f"`zoo train {MODEL} --init LITE0_WEIGHTS --data signs.csv {RECIPE} --seed SEED --out OUT`:",
        "1,436 photographs of hand signs for 0 to 9, evaluated on 210 of other people after every epoch; the evaluation of the last is the",
        "number. One picture is 0.48 points. CBAM is grafted into all 16 blocks and has taken over after half of the steps.",
        "",
        "| seed | top-1, % | minutes, evaluation included | minutes of processor time |",
        "|---|---|---|---|",
        *(f"| {seed} | {each['top1']:.1f} | {each['minutes']:.1f} | {each['processor']:.1f} |" for seed, each in enumerate(runs)),
        f"| median | {middle['top1']:.1f} | {middle['minutes']:.1f} | {middle['processor']:.1f} |",
    ]
    packages = ", ".join(f"{package} {version(package)}" for package in ("effnet-zoo", "torch", "timm"))
    lines += [
        "",
        f"{packages}, Python {platform.python_version()}, {platform.machine()} CPU, one thread, float32;",
        "other work wanted the same two cores: the last column is what the training had of them.",
    ]
    (HERE / "sign_digits.md").write_text("\n".join(lines) + "\n")


def run(manifest: Path, weights: Path, seeds: int) -> None:
    torch.set_num_threads(THREADS)
    file = HERE / "sign_digits.json"
    found: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    for seed in range(seeds):
        if str(seed) not in found:
            found[str(seed)] = trained(manifest, weights, seed)
            file.write_text(json.dumps(found, indent=0) + "\n")
            print(f"seed {seed}: {found[str(seed)]}", flush=True)
    write(found, seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, words in (("manifest", ("npz", "out")), ("run", ("manifest", "weights"))):
        each = verbs.add_parser(verb)
        for word in words:
            each.add_argument(word, type=Path)
    verbs.choices["run"].add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    if asked.verb == "manifest":
        write_manifest(asked.npz, asked.out)
    else:
        run(asked.manifest, asked.weights, asked.seeds)


if __name__ == "__main__":
    main()

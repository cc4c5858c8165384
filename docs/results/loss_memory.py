"""What does a loss cost in a large batch, beside open_clip's? Writes loss_memory.md and .json beside this file.

    python docs/results/loss_memory.py [--threads 1] [--seed 0]

The function behind `zoo bench loss`, at width 512: all losses at 16,384 rows, clip and siglip also at 32,768 and 65,536, each measurement
in a fresh process. The files are written after each size.
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from registry import LOSSES
from zoo.cli.bench import LOSS_COLUMNS, loss_cells
from zoo.deploy import LossMeasured, about, bench_loss

HERE = Path(__file__).parent
WIDTH = 512
PAIRWISE = ["clip", "siglip"]
PLAN = ((16384, [*PAIRWISE, *sorted(set(LOSSES) - {*PAIRWISE})]), (32768, PAIRWISE), (65536, PAIRWISE))


def write(found: list[LossMeasured], known: dict, seed: int, command: str) -> None:
    lines = [
        "# What a loss costs in a large batch",
        "",
        f"`{command}`: forward and backward of embeddings [N, {WIDTH}] in float32, ours / open_clip's, each in a fresh process.",
        "Memory is the peak of the process beyond what it held with the inputs, the gradients of both sides among it; one matrix of all",
        "pairs is N² numbers. Time is processor time of all threads, on a machine that did other things meanwhile: good for a",
        "comparison within a row, no more.",
    ]
    for rows in dict.fromkeys(row.rows for row in found):
        lines += ["", f"## {rows:,} rows", "", f"One matrix of all pairs: {rows**2 * 4 / 2**30:.0f} GiB.", ""]
        lines += ["| " + " | ".join(LOSS_COLUMNS) + " |", "|" + "---|" * len(LOSS_COLUMNS)]
        lines += ["| " + " | ".join(map(str, loss_cells(row))) + " |" for row in found if row.rows == rows]
        lines += [
            line for row in found if row.rows == rows and row.loss in PAIRWISE and row.note for line in ("", f"{row.loss}: {row.note}.")
        ]
    packages = ", ".join(f"{package} {number}" for package, number in known["versions"].items())
    lines += ["", f"{packages}; {known['cpu']}, {known['threads']} thread{'s' * (known['threads'] > 1)}, {known['dtype']}; seed {seed}."]
    (HERE / "loss_memory.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    command = shlex.join(["python", "docs/results/loss_memory.py", *sys.argv[1:]])
    known = about(asked.threads, *["open_clip_torch"] * bool(find_spec("open_clip")))
    found: list[LossMeasured] = []
    for rows, names in PLAN:
        found += bench_loss(names, [rows], width=WIDTH, threads=asked.threads, seed=asked.seed)
        told = {**known, "command": command, "width": WIDTH, "seed": asked.seed, "losses": [asdict(row) for row in found]}
        (HERE / "loss_memory.json").write_text(json.dumps(told, indent=1) + "\n")
        write(found, known, asked.seed, command)


if __name__ == "__main__":
    main()

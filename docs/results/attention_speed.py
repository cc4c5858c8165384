"""What does each gate cost on one CPU core, beside timm's class of the same gate? Writes attention_speed.md and .json beside this file.

    python docs/results/attention_speed.py [--rounds 7] [--seed 0] [GATE ...]

The function behind `zoo bench attention`, over the sixteen gate inputs of EfficientNet-B0 at 224 pixels, at batch 1 and 16. All gates are
measured in one process, in one run: nothing is carried over from an earlier one, since another day is another machine.
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from registry import ATTENTION
from zoo.cli.bench import COLUMNS, cells
from zoo.deploy import Measured, about, bench_attention

HERE = Path(__file__).parent
FIRST = ("cbam", "coord", "se", "eca", "gc")
BATCH_SIZES = (1, 16)


def write(rows: list[Measured], known: dict, rounds: int, seed: int, command: str) -> None:
    lines = [
        "# What a gate costs",
        "",
        f"`{command}`: the sixteen gate inputs of EfficientNet-B0 at 224 pixels,",
        "with its reduction and activation, beside timm's class of the same gate. Times are in copies of the input (`y.copy_(x)`, which",
        "reads it and writes as much); what is saved for the backward pass, parameters and buffers aside, in multiples of the input. Each",
        "cell is ours / timm's; the ratio is timm's time by ours, above 1 where ours is faster: the median of",
        f"{rounds} rounds, and their quartiles. Ours, timm's and the copy took turns in a round, each after a call that is not timed.",
        "timm's `cbam` and `coord` are told ours's width and biases: they compute the same function.",
        "The allocator has a hand in it: the more gates a process has measured, the more timm's fresh tensors cost page faults. Alone in a",
        "process (`zoo bench attention cbam`) timm's are faster.",
    ]
    for size in BATCH_SIZES:
        of_size = [row for row in rows if row.batch_size == size]
        copies = sorted(row.copy_ms for row in of_size if not row.note)
        took = f", which took {copies[0]:.2f} to {copies[-1]:.2f} ms beside the various gates" if copies else ""
        lines += ["", f"## Batch {size}", "", f"A copy is of all sixteen inputs{took}.", ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        lines += ["| " + " | ".join(cell.replace("*", "\\*") for cell in cells(row)) + " |" for row in of_size]
    lines += [line for row in rows if row.note and row.batch_size == BATCH_SIZES[0] for line in ("", f"\\* {row.gate}: {row.note}.")]
    wide = [row for row in rows for each in (row.forward, row.train) if each and each.high > 1.15 * each.low]
    other = [
        gate for gate in sorted(ATTENTION) if len(ATTENTION[gate](64).state_dict()) != len(ATTENTION[gate](64, calm=True).state_dict())
    ]
    unequal = [
        f"{row.gate} ({row.ours.parameters:,} and timm's {row.timm.parameters:,})"
        for row in rows
        if row.batch_size == BATCH_SIZES[0] and row.timm and row.ours.parameters != row.timm.parameters
    ]
    ratios = sum(each is not None for row in rows for each in (row.forward, row.train))
    packages = ", ".join(f"{package} {number}" for package, number in known["versions"].items())
    lines += [
        "",
        f"{len(wide)} of the {ratios} ratios have quartiles more than 15 % apart. A row without timm's numbers is a gate that timm",
        "has not, or has as another thing of the same name (`strip`), or cannot construct (`ge`).",
        "",
        f"Not of equal size at the network's reduction, in parameters: {', '.join(unequal) or 'none'}.",
        "",
        f"Measured as called directly, not in the form that the networks have by default: {', '.join(other) or 'none'}.",
        "",
        f"{packages}; {known['cpu']}, one thread, {known['dtype']}, contiguous, processor time; seed {seed}.",
    ]
    (HERE / "attention_speed.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gates", nargs="*", default=[*FIRST, *sorted(set(ATTENTION) - set(FIRST))])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    gates = sorted(asked.gates, key=lambda gate: FIRST.index(gate) if gate in FIRST else len(FIRST))
    command = shlex.join(["python", "docs/results/attention_speed.py", *sys.argv[1:]])
    known = about()
    rows = bench_attention(gates, BATCH_SIZES, rounds=asked.rounds, seed=asked.seed)
    found = {**known, "command": command, "rounds": asked.rounds, "seed": asked.seed, "gates": [asdict(row) for row in rows]}
    (HERE / "attention_speed.json").write_text(json.dumps(found, indent=1) + "\n")
    write(rows, known, asked.rounds, asked.seed, command)


if __name__ == "__main__":
    main()

"""zoo bench: how fast, beside timm."""

import json
import shlex
from dataclasses import asdict
from typing import Annotated, Any

import typer

from registry import ATTENTION, nearest

from ..deploy import Measured, Spread, about, bench_attention
from .app import Debug, Json, app, console, print_table

WHAT = ("attention",)
COLUMNS = ["gate", "forward", "ratio", "forward + backward", "ratio", "saved"]


def _ratio(spread: Spread | None) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})" if spread else ""


def cells(row: Measured) -> list[Any]:
    """A line of the table, under COLUMNS: ours / timm's."""
    both = [row.ours, row.timm] if row.timm else [row.ours]
    return [
        row.gate + "*" * bool(row.note),
        " / ".join(f"{each.forward:.1f}" for each in both),
        _ratio(row.forward),
        " / ".join(f"{each.train:.1f}" for each in both),
        _ratio(row.train),
        " / ".join(f"{each.saved:.2f}" for each in both),
    ]


@app.command("bench")
def bench(
    what: Annotated[str, typer.Argument(help="What is measured: attention.")],
    gates: Annotated[list[str] | None, typer.Argument(help="Names of zoo list --attention; all by default.", show_default=False)] = None,
    batch_size: Annotated[list[int], typer.Option(min=1, help="May be given several times.")] = [1, 16],  # noqa: B006 (typer copies it)
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is timed.")] = 7,
    img_size: Annotated[int, typer.Option(min=1, help="Picture size, which decides the size of the maps.")] = 224,
    seed: Annotated[int, typer.Option(help="Of weights and maps.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time and memory of the gates in EfficientNet-B0, on one CPU core, beside timm's class of the same gate.

    zoo bench attention                   every gate, in some minutes
    zoo bench attention cbam se --json    with versions and processor
    """
    if what not in WHAT:
        meant = f"; did you mean 'zoo bench attention {what}'?" if what in ATTENTION else f"; {nearest(what, list(WHAT))}"
        raise ValueError(f"zoo bench measures {', '.join(WHAT)}, not {what!r}{meant}")
    names = gates or sorted(ATTENTION)
    rows = bench_attention(names, batch_size, rounds=rounds, img_size=img_size, seed=seed)
    if as_json:
        options = [word for each in batch_size for word in ("--batch-size", each)]
        words = ["zoo", "bench", what, *names, *options, "--rounds", rounds, "--img-size", img_size, "--seed", seed, "--json"]
        asked = {"command": shlex.join(map(str, words)), "rounds": rounds, "seed": seed, "img_size": img_size}
        print(json.dumps({**about(), **asked, "gates": [asdict(row) for row in rows]}, indent=2))
        return
    for size in dict.fromkeys(batch_size):
        print_table(f"batch {size}: ours / timm's", COLUMNS, [cells(row) for row in rows if row.batch_size == size])
    for note in dict.fromkeys(f"* {row.gate}: {row.note}" for row in rows if row.note):
        console.print(note, highlight=False)
    meaning = "Times in copies of the input, saved in multiples of it; ratio: timm's time by ours, median and quartiles."
    console.print(f"{meaning} One thread; rounds: {rounds}.", highlight=False)

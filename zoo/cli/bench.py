"""zoo bench: what a gate, a loss and a step of training cost, beside timm's and open_clip's; of networks see bench_networks.py."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import timm
import typer
from typer.core import TyperGroup

from registry import ATTENTION, LOSSES, nearest

from ..deploy import LossMeasured, Measured, Spread, about, bench_attention, bench_loss, bench_train
from ..train.config import PRECISIONS
from .app import Debug, Json, app, console, print_table

COLUMNS = ["gate", "forward", "ratio", "forward + backward", "ratio", "saved"]
LOSS_COLUMNS = ["loss", "MiB", "in matrices", "seconds"]
TRAIN_COLUMNS = ["side", "images/s", "ratio", "images/processor s", "ratio", "waiting"]


class _Bench(TyperGroup):
    """What is no command is a network, which `networks` measures; a word that is neither is answered in one line, with what was meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # of the click that typer brings
        if args and args[0] not in ("--help", "-h", *self.list_commands(ctx)):
            if not args[0].startswith("-"):
                self._check_network(ctx, args[0])
            args = ["networks", *args]
        return super().parse_args(ctx, args)

    def _check_network(self, ctx: Any, word: str) -> None:
        """Raises ValueError of a word that cannot be meant for a network."""
        if Path(word).exists() or "/" in word or ":" in word or timm.is_model(word.partition(".")[0]):
            return
        what = [name for name in self.list_commands(ctx) if name != "networks"]
        meant = [f"'zoo bench {kind} {word}'" for kind, shelf in (("attention", ATTENTION), ("loss", LOSSES)) if word in shelf]
        end = (
            f"did you mean {' or '.join(meant)}?" if meant else nearest(word, what if get_close_matches(word, what) else timm.list_models())
        )
        raise ValueError(f"zoo bench measures {', '.join(what)}, networks and runs, not {word!r}; {end}")


bench = typer.Typer(
    cls=_Bench,
    help="""How fast networks are, and which to take. Also what a gate, a loss and a step of training cost.

    zoo bench effnet_cbam_b0 runs/half --peers
    zoo bench attention cbam se
    """,
    no_args_is_help=True,
)
app.add_typer(bench, name="bench")


def command(what: str, names: Sequence[str], **options: Any) -> str:
    """The line that asks for the same again; an option with several values is given several times."""
    words = ["zoo", "bench", *filter(None, [what]), *names]
    for option, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            words += ["--" + option.replace("_", "-"), str(each)]
    return shlex.join([*words, "--json"])


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


def loss_cells(row: LossMeasured) -> list[Any]:
    """A line of the table, under LOSS_COLUMNS: ours / open_clip's."""
    both = [row.ours, row.open_clip] if row.open_clip else [row.ours]
    matrix = row.rows**2 * 4 / 2**20
    return [
        row.loss,
        " / ".join(f"{each.mib:,.0f}" for each in both),
        " / ".join(f"{each.mib / matrix:.2f}" for each in both),
        " / ".join(f"{each.seconds:.1f}" for each in both),
    ]


@bench.command("attention")
def attention(
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
    names = gates or sorted(ATTENTION)
    rows = bench_attention(names, batch_size, rounds=rounds, img_size=img_size, seed=seed)
    if as_json:
        again = command("attention", names, batch_size=batch_size, rounds=rounds, img_size=img_size, seed=seed)
        asked = {"command": again, "rounds": rounds, "seed": seed, "img_size": img_size}
        print(json.dumps({**about(), **asked, "gates": [asdict(row) for row in rows]}, indent=2))
        return
    for size in dict.fromkeys(batch_size):
        print_table(f"batch {size}: ours / timm's", COLUMNS, [cells(row) for row in rows if row.batch_size == size])
    for note in dict.fromkeys(f"* {row.gate}: {row.note}" for row in rows if row.note):
        console.print(note, highlight=False)
    meaning = "Times in copies of the input, saved in multiples of it; ratio: timm's time by ours, median and quartiles."
    console.print(f"{meaning} One thread; rounds: {rounds}.", highlight=False)


@bench.command("loss")
def loss(
    losses: Annotated[
        list[str] | None, typer.Argument(help="Names of losses (zoo list --kinds); all by default.", show_default=False)
    ] = None,
    rows: Annotated[list[int], typer.Option(min=1, help="Batch size; may be given several times.")] = [4096, 16384],  # noqa: B006
    width: Annotated[int, typer.Option(min=1, help="Of the embeddings.")] = 512,
    threads: Annotated[int, typer.Option(min=1, help="Of each measuring process.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the embeddings.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Memory and time of the losses in large batches, each in a fresh process, beside open_clip's loss.

    zoo bench loss                               every loss, in some minutes
    zoo bench loss clip --rows 65536 --json      with versions and processor
    """
    names = losses or sorted(LOSSES)
    found = bench_loss(names, rows, width=width, threads=threads, seed=seed)
    if as_json:
        known = about(threads, *["open_clip_torch"] * bool(find_spec("open_clip")))
        asked = {"command": command("loss", names, rows=rows, width=width, threads=threads, seed=seed), "width": width, "seed": seed}
        print(json.dumps({**known, **asked, "losses": [asdict(row) for row in found]}, indent=2))
        return
    for count in dict.fromkeys(rows):
        of_size = [row for row in found if row.rows == count]
        print_table(f"{count:,} rows: ours / open_clip's", LOSS_COLUMNS, [loss_cells(row) for row in of_size])
        for row in of_size:
            if row.note:
                console.print(f"{row.loss}: {row.note}", highlight=False)
    meaning = "Peak memory of forward and backward beyond the inputs, also in matrices of all pairs; seconds of processor time."
    console.print(f"{meaning} Threads: {threads}.", highlight=False)


@bench.command("train")
def train(
    model: Annotated[str, typer.Option(help="A timm name.")] = "effnet_cbam_b0",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 16,
    img_size: Annotated[int, typer.Option(min=8, help="Pixels a side.")] = 224,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read pictures, of each side.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Of the training process.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is timed, after a first time that is not counted.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Of each side in a round.")] = 6,
    precision: Annotated[str, typer.Option(help=" or ".join(PRECISIONS[:2]) + ", of both sides.")] = "fp32",
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile, of all sides.")] = False,
    recompute: Annotated[bool, typer.Option("--recompute", help="Of our loop, as in zoo train.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights and pictures.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Images a second of our loop on a CPU, from picture files to optimizer, beside timm's loader and training step, in one run.

    zoo bench train                                  16 pictures of 224 pixels a step
    zoo bench train --batch-size 128 --img-size 32 --workers 1 --json
    """
    asked: dict[str, Any] = dict(model=model, batch_size=batch_size, img_size=img_size, workers=workers, threads=threads)
    asked |= dict(rounds=rounds, steps=steps, precision=precision, seed=seed)
    flags: dict[str, Any] = {"compile": compile, "recompute": recompute}
    found = bench_train(**asked, **flags)
    if as_json:
        again = command("train", [f"--{flag}" for flag, given in flags.items() if given], **asked)
        print(json.dumps({**about(threads), "command": again, **asked, **flags, **asdict(found)}, indent=2))
        return
    rows = []
    for name, side in found.sides.items():
        ratio = found.ratios.get(name)
        wall, processor = (_ratio(ratio.wall), _ratio(ratio.processor)) if ratio else ("", "")
        rows.append([name, side.images_per_second, wall, side.images_per_processor_second, processor, f"{side.waiting:.1%}"])
    print_table(f"{model}, {batch_size} pictures of {img_size} pixels a step", TRAIN_COLUMNS, rows)
    meaning = "Ratio: our images a second by timm's, median and quartiles; waiting: share of the time spent waiting for pictures."
    console.print(f"{meaning} Threads: {threads}, workers: {workers}, rounds: {rounds} of {steps} steps.", highlight=False)

"""zoo bench NAME_OR_RUN...: how fast networks are, in PyTorch and in the runtimes that are installed, and which one to take."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Annotated, Any

import typer

from ..build.candidate import open_candidate, peers
from ..deploy import Spread, about
from ..deploy.front import WITHIN, Point, choice, draw, front, picture_kind
from ..deploy.network_speed import ROUNDED, Cell, LeftOut, bench_networks
from ..deploy.runtimes import RUNTIMES
from ..deploy.ways import USUAL, WAYS
from ..progress import tracked
from .app import Debug, Json, console, print_table
from .bench import bench, command

NETWORK_COLUMNS = ["network", "pixels", "M parameters", "M MACs", "accuracy"]
COLUMNS = ["network", "runtime", "MB", "ms, median", "p95", "p99", "images/s", "x eager"]
FRONT_COLUMNS = ["network", "runtime", "ms", "accuracy", "take"]


@dataclass(frozen=True)
class Front:
    """Of one batch size and one data: the cells that nothing beats in time and accuracy, and the one to take."""

    batch_size: int
    metric: str
    data: str
    front: tuple[Point, ...]
    take: Point


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ranged(spread: Spread | None) -> str:
    return f"{_short(spread.median)} ({_short(spread.low)}-{_short(spread.high)})" if spread else ""


def cell_row(cell: Cell) -> list[str]:
    """A line of the table, under COLUMNS."""
    return [
        *(cell.network, cell.runtime, f"{cell.bytes / 1e6:.1f}", _ranged(cell.latency), _short(cell.p95), _short(cell.p99)),
        *(_short(cell.images_per_second.median), _ranged(cell.faster)),
    ]


def network_rows(cells: Sequence[Cell]) -> list[list[str]]:
    """The lines of the table, under NETWORK_COLUMNS: of every network once, with its accuracy where one of its cells has it."""
    found: dict[str, list[str]] = {}
    for cell in sorted(cells, key=lambda each: each.worth is None):
        known = f"{cell.worth.metric} {cell.worth.value:.1f} on {cell.worth.data}" if cell.worth else "not measured"
        counts = ("" if each is None else f"{each / 1e6:,.2f}" for each in (cell.parameters, cell.macs))
        found.setdefault(cell.network, [cell.network, str(cell.pixels), *counts, known])
    return [found[name] for name in dict.fromkeys(cell.network for cell in cells)]


def _known(cell: Cell) -> tuple[int, str, str]:
    """Cells of one of these can be compared: batch size, metric and data; of a network that was never measured "" and ""."""
    return cell.batch_size, *((cell.worth.metric, cell.worth.data) if cell.worth else ("", ""))


def _point(cell: Cell) -> Point:
    return Point(cell.network, cell.runtime, cell.latency.median, cell.worth.value if cell.worth else (cell.macs or 0) / 1e6)


def fronts(cells: Sequence[Cell]) -> list[Front]:
    """Of each batch size and each data that accuracy was measured on."""
    keys = dict.fromkeys(_known(cell) for cell in cells if cell.worth)
    groups = [(key, [_point(cell) for cell in cells if _known(cell) == key]) for key in keys]
    return [Front(*key, tuple(front(points)), choice(points)) for key, points in groups]


def recommendation(cells: Sequence[Cell], found: Sequence[Front]) -> str:
    """Which network in which runtime: one line."""
    first = cells[0].batch_size

    def said(batch_size: int, each: Point, end: str = "") -> str:
        return f"{'' if batch_size == first else f'at batch {batch_size} '}{each.name} ({each.series}): {_short(each.cost)} ms{end}"

    if not found:
        sizes = dict.fromkeys(cell.batch_size for cell in cells)
        fastest = [min((_point(cell) for cell in cells if cell.batch_size == size), key=lambda point: point.cost) for size in sizes]
        named = "; ".join(said(size, each) for size, each in zip(sizes, fastest, strict=True))
        return f"The fastest on this machine is {named}. No accuracy is known of any, so that this recommends none."
    several = len({(each.metric, each.data) for each in found}) > 1
    named = "; ".join(
        said(each.batch_size, each.take, f", {each.metric} {each.take.worth:.1f}{f' on {each.data}' if several else ''}") for each in found
    )
    return f"On this machine take {named}. It is the fastest within {WITHIN:g} points of the best."


def _picture(cells: Sequence[Cell], out: Path) -> None:
    """Accuracy against time where any is known, multiplications against time where none is."""
    with_accuracy = any(cell.worth for cell in cells)
    drawn = [cell for cell in cells if (cell.worth if with_accuracy else cell.macs)]
    panels = [
        (f"batch {key[0]}{', ' * bool(key[2])}{key[2]}", [_point(cell) for cell in drawn if _known(cell) == key])
        for key in dict.fromkeys(map(_known, drawn))
    ]
    worth = "accuracy, %" if with_accuracy else "million multiplications a picture"
    draw(panels, out, cost="milliseconds a call", worth=worth, with_front=with_accuracy)


def _versions() -> list[str]:
    """The packages of the runtimes that are installed."""
    packages = dict.fromkeys(its.PACKAGE for its in RUNTIMES.values() if its.PACKAGE != "torch")
    there = {name for names in packages_distributions().values() for name in names}
    return [package for package in packages if package in there]


def _left_out(each: LeftOut) -> str:
    return f"left out: {' in '.join(filter(None, [each.network, each.runtime]))}: {each.reason}"


def _unknown(cells: Sequence[Cell]) -> Iterator[str]:
    """What is measured in time but not in accuracy, because of fewer bits."""
    known = {cell.network for cell in cells if cell.worth}
    for runtime in ROUNDED:
        if names := dict.fromkeys(cell.network for cell in cells if cell.runtime == runtime and not cell.worth and cell.network in known):
            yield f"{runtime} of {', '.join(names)}: its accuracy was not measured, so it is on no front; zoo quantize --to {runtime} does."


def _as_json(point: Point) -> dict[str, Any]:
    return {"network": point.name, "runtime": point.series, "ms": point.cost, "accuracy": point.worth}


@bench.command("networks")
def networks(
    names: Annotated[
        list[str] | None, typer.Argument(help="timm names, run directories, exported or quantized folders.", show_default=False)
    ] = None,
    batch_size: Annotated[list[int], typer.Option(min=1, help="May be given several times.")] = [1, 16],  # noqa: B006 (typer copies it)
    img_size: Annotated[int | None, typer.Option(min=1, help="Pixels a side; each network's own by default.")] = None,
    runtime: Annotated[list[str], typer.Option(help=f"May be given several times; of {', '.join(WAYS)}.")] = list(USUAL),  # noqa: B006, B008
    threads: Annotated[int, typer.Option(min=1, help="Of every runtime.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything takes a turn.")] = 7,
    peer: Annotated[bool, typer.Option("--peers", help="Beside timm's and torchvision's EfficientNet-B0 and MobileNetV3.")] = False,
    out: Annotated[Path | None, typer.Option(help="A picture of accuracy against time: front.png, front.svg.")] = None,
    system_memory: Annotated[bool, typer.Option("--system-memory", help="Leave the allocator as it is (docs/bench.md).")] = False,
    seed: Annotated[int, typer.Option(help="Of the pixels.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How fast networks are in PyTorch, ONNX Runtime, OpenVINO and ExecuTorch, and which to take. What `zoo bench NAME...` runs.

    zoo bench effnet_cbam_b0 effnet_se_b0 --peers
    zoo bench runs/digits runs/half runs/int8 --out front.png
    zoo bench runs/digits --runtime eager --runtime compiled      compiling takes about a minute a network and batch size
    """
    if not names and not peer:
        raise ValueError("names: expected networks or run directories, such as: zoo bench effnet_cbam_b0 runs/digits; or --peers")
    if out is not None:
        picture_kind(out)  # raises before anything is measured
    wanted = list(dict.fromkeys(str(Path(name)) if Path(name).is_dir() else name for name in names or ()))
    candidates = [open_candidate(name, img_size=img_size) for name in tracked(wanted, len(wanted), "open")]
    if peer:
        candidates += peers(img_size)
    measured = bench_networks(
        candidates, batch_size, runtimes=runtime, threads=threads, rounds=rounds, seed=seed, keep_memory=not system_memory
    )
    if not measured.cells:
        raise ValueError(f"nothing could be measured: {'; '.join(map(_left_out, measured.left_out))}")
    found = fronts(measured.cells)
    take = recommendation(measured.cells, found)
    if out is not None:
        _picture(measured.cells, out)
    if as_json:
        asked: dict[str, Any] = {"batch_size": batch_size, "runtime": runtime, "threads": threads, "rounds": rounds, "seed": seed}
        asked |= {"img_size": img_size} if img_size else {}
        flags = [*["--peers"] * peer, *["--system-memory"] * system_memory]
        shown = [{**asdict(each), "front": [*map(_as_json, each.front)], "take": _as_json(each.take)} for each in found]
        told = {**about(threads, *_versions()), "command": command("", [*wanted, *flags], **asked), **asked}
        print(json.dumps({**told, **asdict(measured), "fronts": shown, "take": take}, indent=2))
        return
    print_table(f"{len(candidates)} networks", NETWORK_COLUMNS, network_rows(measured.cells))
    for size in dict.fromkeys(batch_size):
        print_table(f"batch {size}", COLUMNS, [cell_row(cell) for cell in measured.cells if cell.batch_size == size])
    for each in found:
        rows = [[point.name, point.series, _short(point.cost), f"{point.worth:.1f}", "*" * (point == each.take)] for point in each.front]
        print_table(f"batch {each.batch_size}: nothing is faster and as good, {each.metric} on {each.data}", FRONT_COLUMNS, rows)
    meaning = "Median and quartiles of the rounds; p95 and p99 of all calls; x eager: eager's time by this one's."
    memory = "memory kept between tensors" if measured.memory_kept else "the system's allocator"
    console.print(f"{meaning} Threads: {threads}, rounds: {rounds}, {memory}.", highlight=False)
    for line in (*map(_left_out, measured.left_out), *measured.notes, *_unknown(measured.cells)):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(take, highlight=False, soft_wrap=True)

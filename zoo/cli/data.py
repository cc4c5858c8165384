"""zoo data check: what is wrong with data, and what is worth knowing of them, before they are trained on."""

import json
import os
from typing import Annotated, Any

import typer

from ..build import open_data
from ..datasets import check_data
from .app import Debug, Json, app, console, print_table

_SHOWN = 10  # of a list; --json has all of it
_CLASSES = 25  # that still fit a terminal

data_app = typer.Typer(help="Look data over.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def _range(spread: list[float] | None) -> str:
    return " / ".join(f"{each:,g}" for each in spread) if spread else ""


def _list(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """The first rows of a list, the folder that all paths in it are in taken out of them."""
    if not rows:
        return
    more = f", the first {_SHOWN}" if len(rows) > _SHOWN else ""
    paths = {cell for row in rows for cell in row if isinstance(cell, str) and os.path.isabs(cell)}
    root = os.path.commonpath(paths) if len(paths) > 1 else "/"
    inside = f", in {root}" if root != "/" else ""
    shown = [[os.path.relpath(cell, root) if inside and cell in paths else cell for cell in row] for row in rows[:_SHOWN]]
    print_table(f"{title}: {len(rows):,}{more}{inside}", columns, shown)


def print_report(found: dict[str, Any]) -> None:
    """What `check_data` found, as tables."""
    splits = found["splits"]
    broken = {which: len({each["row"] for each in found["broken"] if each["split"] == which}) for which in splits}
    rows = [[name, *(f"{its[name]:,}" for its in splits.values())] for name in ("rows", "pictures")]
    rows.append(["broken", *(f"{broken[which]:,}" for which in splits)])
    missing = dict.fromkeys(column for its in splits.values() for column in its["missing"])
    rows += [[f"without {column}", *(f"{its['missing'].get(column, 0):,}" for its in splits.values())] for column in missing]
    names = {"width": "width", "height": "height", "aspect": "width by height", "captions": "captions a picture"}
    rows += [
        [f"{told}: min / median / max", *(_range(its[name]) for its in splits.values())]
        for name, told in names.items()
        if any(its[name] for its in splits.values())
    ]
    print_table(found["data"], ["", *splits], rows)
    balance = [[label, *(its["classes"][label] for its in splits.values())] for label in splits["train"]["classes"]]
    if len(balance) > _CLASSES:
        balance = sorted(balance, key=lambda row: -row[1])
        half = _CLASSES // 2
        balance = [*balance[:half], [f"... {len(balance) - 2 * half:,} more", "", ""], *balance[-half:]]
    if balance:
        print_table("rows of a class", ["class", *splits], balance)
    _list("broken pictures", ["split", "row", "file", "why"], [list(each.values()) for each in found["broken"]])
    _list("leaks: eval pictures that are for training too", ["eval", "train"], [list(each.values()) for each in found["leaks"]])
    _list("duplicates within a split", ["split", "picture", "is the same as"], [list(each.values()) for each in found["duplicates"]])
    noise = [[", ".join(each) if isinstance(each, list) else each for each in pair.values()] for pair in found["label_noise"]]
    _list("one picture under two labels", ["picture", "label", "is the same as", "label there"], noise)
    if found["mean"]:
        mean, std = (", ".join(f"{each:.3f}" for each in found[name]) for name in ("mean", "std"))
        console.print(f"mean {mean}; std {std} (red, green, blue of the training pictures, each counting alike)", soft_wrap=True)
    console.print(f"broken: {len(found['broken']):,}; leaks: {len(found['leaks']):,}", soft_wrap=True)


@data_app.command("check")
def check(
    data: Annotated[str, typer.Argument(help="What --data takes: digits, a folder of class folders, a manifest, captions.")],
    workers: Annotated[int, typer.Option(min=0, help="Processes that read.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read all rows once: sizes, broken pictures, leaks, duplicates, class balance, mean and std.

    The exit code is 0 where all is fine, 1 where a picture is broken or in both splits, 2 where the data can not be opened.

    zoo data check my_folder
    zoo data check captions.csv --workers 4 --json > report.json
    """
    found = check_data(open_data(data, broken=True), workers=workers)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_report(found)
    if not found["fine"]:
        raise typer.Exit(1)

"""zoo export: a run as a folder that another library loads or a runtime runs, and a check that it says the same there."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from registry import nearest

from ..build import Run, load_run
from ..datasets import Split
from ..deploy import RUNTIMES, Differs, at_size, check_exported, is_exported, parts, set_aside, write_exported
from ..train.folder import is_run
from . import export_library
from .app import MISTAKES, Debug, Json, console, verb

RUNTIME_NAMES = {name.replace("_", "-"): name for name in RUNTIMES}  # on the command line -> in Python
TO = (*RUNTIME_NAMES, *export_library.FILES)


def _ours(out: Path) -> set[str]:
    """Names of files in a folder that an export may have left there."""
    library = {file for files in export_library.FILES.values() for file in files}
    if not is_exported(out):
        return library
    return {
        "config.json",
        "README.md",
        "card.json",
        "card.md",
        "index",
        "report.html",
        *json.loads((out / "config.json").read_text())["runtime"].get("files", {}),
    }


@contextmanager
def folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, whose files are moved to `out` when all are there."""
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if out.exists() and (not out.is_dir() or is_run(out) and not is_exported(out) or not there <= _ours(out)):
        raise ValueError(f"out: {out} holds other things than an export; choose another folder, so that nothing is lost")
    if there and not overwrite:
        raise ValueError(f"out: {out} already holds an export; replace it (--overwrite), or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".writing-") as writing:
        yield Path(writing)
        out.mkdir(exist_ok=True)
        for file in there:
            shutil.rmtree(out / file) if (out / file).is_dir() else (out / file).unlink()
        for path in Path(writing).iterdir():
            os.replace(path, out / path.name)


def _for_runtime(run: Run, to: str, out: Path, split: Split | None, rows: int, overwrite: bool, any_size: bool) -> dict[str, Any]:
    """Written, checked, and only then moved to where it belongs."""
    config = json.loads((run.path / "config.json").read_text())
    with folder(out, overwrite) as writing:
        notes = write_exported(run.task, config, RUNTIME_NAMES[to], writing, run=str(run.path), any_size=any_size)
        checked = None
        if split is not None:
            columns = tuple(part.modality for part in parts(run.task)[0])
            found = export_library.first_rows(split, columns, rows)
            try:
                checked = check_exported(run.task, writing, {column: [row[column] for row in found] for column in columns})
            except Differs as error:
                raise ValueError(f"{out} was not written: {error}; it is kept in {set_aside(writing, out)}") from error
    return {"notes": notes, "checked": checked}


def _runtime_told(out: Path, checked: dict[str, Any]) -> str:
    library = json.loads((out / "config.json").read_text())["runtime"]["library"]
    apart = ", ".join(f"{name} {each:.1e}" for name, each in checked["difference"].items())
    most = f"of the largest output ({checked['tolerance']:g} may be)"
    return f"checked with {library} on {checked['rows']} rows, largest difference: {apart} {most}"


@verb("export")
def export(
    run: Annotated[Path, typer.Argument(help="A directory that zoo train made.")],
    to: Annotated[str, typer.Option(help=f"Who is to load it: {', '.join(TO)}.")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    data: Annotated[str | None, typer.Option(help="Rows to check it on; the run's own evaluation rows by default.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows to check it on.")] = 16,
    img_size: Annotated[int | None, typer.Option(help="Pixels of the pictures that a runtime is given; as in the run by default.")] = None,
    any_size: Annotated[bool, typer.Option("--any-size", help="A runtime takes pictures of any size, and is slower.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in --out.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """A folder that another library loads or a runtime runs, checked to say the same. Of a joint embedding: a file a tower.

    onnx, openvino, executorch, torch-export and torchscript are for zoo predict, zoo.load_exported and the runtime itself; open_clip is
    both towers of image=... text=clip_text, for "local-dir:exported" there; timm is the picture network, for the same in timm.

    zoo export runs/x --to onnx --out exported
    zoo export runs/x --to open_clip --out exported
    """
    if to not in TO:
        raise ValueError(f"to: expected {', '.join(TO[:-1])} or {TO[-1]}, got {to!r}; {nearest(to, list(TO))}")
    if to not in RUNTIME_NAMES and (img_size is not None or any_size):
        raise ValueError(f"--img-size and --any-size are of a runtime's file; {to} reads pictures in the run's size")
    opened = load_run(run).to_change()
    if img_size is not None:
        at_size(opened.task, img_size)
    split, unchecked = None, ""
    try:
        split = opened.open_data(data).eval
    except MISTAKES as error:
        if data is not None:
            raise
        unchecked = f"{error} (--data names other rows)"
    if to in RUNTIME_NAMES:
        found = _for_runtime(opened, to, out, split, rows, overwrite, any_size)
        notes, checked = found["notes"], found["checked"]
        lines = [_runtime_told(out, checked) if checked else ""]
    else:
        with folder(out, overwrite) as writing:
            notes = export_library.write(opened, to, writing)
        checked = None
        if split is not None:
            try:
                checked = export_library.check(opened, to, out, split, rows)
            except ImportError as error:
                unchecked = str(error)
        lines = [export_library.told(to, checked) if checked else ""]
    if as_json:
        print(json.dumps({"folder": str(out), "to": to, "notes": notes, "checked": checked, "unchecked": unchecked or None}, indent=2))
        return
    first = f"{out} is for {to}; its README.md says how to load it"
    for line in (first, *notes, *(lines if checked else [f"not checked: {unchecked}"])):
        console.print(line, highlight=False, soft_wrap=True)

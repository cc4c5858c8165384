"""zoo export: a run as a folder that another library loads, and a check that it says the same there."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from registry import nearest

from ..build import Run, load_run
from ..datasets import Split
from ..deploy import compare_open_clip, compare_timm, export_open_clip, export_timm, text_modality
from ..train import Align, Classify
from ..train.folder import is_run
from .app import MISTAKES, Debug, Json, app, console

_BROKEN = 1e-4  # of embeddings of unit length; other kernels differ by 1e-6
_PACKAGE = {"open_clip": "open_clip_torch", "timm": "timm"}
_FILES = {
    "open_clip": ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"),
    "timm": ("config.json", "model.safetensors", "README.md"),
}


@contextmanager
def _folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, whose files are moved to `out` when all are there."""
    ours = {file for files in _FILES.values() for file in files}
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if out.exists() and (not out.is_dir() or is_run(out) or not there <= ours):
        raise ValueError(f"out: {out} holds other things than an export; choose another folder, so that nothing is lost")
    if there and not overwrite:
        raise ValueError(f"out: {out} already holds an export; replace it (--overwrite), or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".writing-") as writing:
        yield Path(writing)
        out.mkdir(exist_ok=True)
        for file in there:
            (out / file).unlink()
        for path in Path(writing).iterdir():
            os.replace(path, out / path.name)


def _rows(split: Split, columns: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    """The first rows that have all columns."""
    found = []
    for index in range(len(split)):
        row = split[index]
        if all(column in row for column in columns):
            found.append(row)
        if len(found) == count:
            break
    if not found:
        raise ValueError(f"no row with {' and '.join(columns)} to check it on")
    return found


def _write(run: Run, to: str, out: Path) -> list[str]:
    """Into a folder; what is not the same there."""
    task: Any = run.task
    if to == "timm":
        task.of_pictures()  # raises where there are none
        classifier = isinstance(task, Classify)
        network = task.trainable_module if classifier else task.joint.towers["image"]
        export_timm(network, task.of_pictures(), out, classes=task.classes if classifier else None)
        return []
    if not isinstance(task, Align):
        pairs = "zoo train image=effnet_cbam_b0 text=clip_text"
        raise ValueError(f"{run.path} is a classifier, and open_clip joins pictures and texts: {pairs} ..., or --to timm")
    return export_open_clip(task.joint, task.of_pictures(), out, drop_path=run.settings.get("drop_path"))


def _check(run: Run, to: str, folder: Path, split: Split, count: int) -> dict[str, Any]:
    """The largest differences, on the first rows of a split."""
    task: Any = run.task
    if to == "timm":
        pictures = [row["image"] for row in _rows(split, ("image",), count)]
        network = task.trainable_module if isinstance(task, Classify) else task.joint.towers["image"]
        found = {"image": compare_timm(network, task.of_pictures(), folder, pictures)}
        worst = found["image"]
    else:
        text = text_modality(task.joint)
        rows = _rows(split, ("image", text), count)
        pictures, texts = [row["image"] for row in rows], [row[text] for row in rows]
        found = asdict(compare_open_clip(task.joint, task.of_pictures(), folder, pictures, texts))
        worst = max(found["same_pixels"], found["same_ids"])
    if not worst < _BROKEN:
        raise RuntimeError(f"{folder}: {to} loads the export and says something else: {found}")
    return {"rows": len(pictures), **found}


def _told(to: str, found: dict[str, Any]) -> str:
    """What the check found, in a line."""
    line = f"checked with {to} {version(_PACKAGE[to])} on {found['rows']} rows, largest difference: pictures {found['image']:.1e}"
    if to == "timm":
        return line
    line += f", texts {found['text']:.1e}"
    if found["pixels"] > 1e-6:
        line += f"; open_clip prepares pictures otherwise: of the same pixels {found['same_pixels']:.1e}"
    if found["texts"]:
        line += f"; {found['texts']} texts are other tokens there: of the same tokens {found['same_ids']:.1e}"
    return line


@app.command("export")
def export(
    run: Annotated[Path, typer.Argument(help="A directory that zoo train made.")],
    to: Annotated[str, typer.Option(help=f"Who is to load it: {' or '.join(_FILES)}.")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    data: Annotated[str | None, typer.Option(help="Rows to check it on; the run's own evaluation rows by default.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows to check it on.")] = 16,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in --out.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """A run as a folder that another library loads, and a check that it says the same there.

    zoo export runs/x --to open_clip --out exported    both towers of image=... text=clip_text, for "local-dir:exported" in open_clip
    zoo export runs/x --to timm --out exported         the picture network, for "local-dir:exported" in timm
    """
    if to not in _FILES:
        raise ValueError(f"to: expected {' or '.join(_FILES)}, got {to!r}; {nearest(to, list(_FILES))}")
    opened = load_run(run)
    split, unchecked = None, ""
    try:
        split = opened.open_data(data).eval
    except MISTAKES as error:
        if data is not None:
            raise
        unchecked = f"{error} (--data names other rows)"
    with _folder(out, overwrite) as writing:
        notes = _write(opened, to, writing)
    found: dict[str, Any] = {}
    if split is not None:
        try:
            found = _check(opened, to, out, split, rows)
        except ImportError as error:
            unchecked = str(error)
    if as_json:
        print(
            json.dumps({"folder": str(out), "to": to, "notes": notes, "checked": found or None, "unchecked": unchecked or None}, indent=2)
        )
        return
    lines = [f"{out} is for {to}; its README.md says how to load it", *notes, _told(to, found) if found else f"not checked: {unchecked}"]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)

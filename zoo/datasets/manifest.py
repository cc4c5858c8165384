"""A manifest: one line a picture and what belongs to it, as CSV, TSV or JSON Lines.

Columns: `image` (a path, relative to the manifest's folder), `label` or `caption` or both, optional `id` and `split`. open_clip's names
are understood: `filepath` for image, `title` for caption; `text` too. An empty cell is a missing value. Several lines with one image are
several captions of one picture. Every picture's header is looked at when the manifest is opened, and whatever is wrong is told with file
and line.
"""

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from registry import nearest

from ..progress import tracked
from .components import components
from .data import Data, Row, Split
from .picture import check_picture, read_picture
from .splits import EVAL_WORDS, held_out, sort_classes

_NAMES = {"image": ("image", "filepath"), "label": ("label",), "text": ("caption", "title", "text"), "id": ("id",), "split": ("split",)}
_EXPECTED = "expected image (or filepath), and label or caption (or title, text) or both; optional id, split"

Line = tuple[int, dict[str, str]]  # line number in the file, from 1, and its cells


@dataclass(frozen=True)
class _Rows:
    manifest: str
    lines: np.ndarray  # [rows]
    paths: tuple[str, ...]
    labels: np.ndarray  # [rows], -1: none
    texts: tuple[str, ...]  # "": none

    def __call__(self, index: int) -> Row:
        try:
            row: Row = {"image": read_picture(self.paths[index])}
        except ValueError as error:
            raise ValueError(f"{self.manifest}, line {self.lines[index]}: {error}") from error
        if self.labels[index] >= 0:
            row["label"] = int(self.labels[index])
        if self.texts[index]:
            row["text"] = self.texts[index]
        return row


def read_manifest(path: str | PathLike[str]) -> Data:
    """Rows `image`, and `label` and `text` where the line has them; classes sorted by name, or by number if all are whole numbers.

    `ids` are equal where lines share an `id` or a picture, directly or through others; `pictures` where they share the picture. In the
    `split` column, train is train; eval, val, valid, validation and test are eval; either side may have no rows. Without the column about
    a fifth of the ids (of every label, if there are labels) is held out by a hash: all lines of an id, so all captions of a picture, are
    on one side.

    Raises:
        FileNotFoundError: there is no such manifest.
        ValueError: what is wrong, with its line: a missing column, an empty cell, a picture that is missing or none, an unknown split ...
    """
    manifest = Path(os.path.abspath(path))
    if not manifest.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, not a manifest file' if manifest.is_dir() else 'no such manifest'}")
    lines = _lines(manifest)
    paths = [os.path.normpath(manifest.parent / cells["image"]) for _, cells in lines]
    seen: set[str] = set()
    for (number, cells), picture in tracked(zip(lines, paths, strict=True), len(lines), "pictures"):
        if picture not in seen:
            seen.add(picture)
            try:
                check_picture(picture)
            except ValueError as error:
                raise ValueError(f"{manifest}, line {number}: {error}{_hint(picture, cells['image'])}") from error

    names = [os.path.relpath(picture, manifest.parent).replace(os.sep, "/") for picture in paths]
    pictures = _first_of(names)
    given = _first_of([cells["id"] or f"/{index}" for index, (_, cells) in enumerate(lines)])
    ids = components(len(lines), [*enumerate(pictures), *enumerate(given)])
    labels = [cells["label"] for _, cells in lines]
    is_eval = _is_eval(manifest, lines, names, ids, labels)

    classes = sort_classes(label for label, out in zip(labels, is_eval, strict=True) if label and not out)
    if is_eval.all():
        classes = sort_classes(label for label in labels if label)
    number_of = {name: index for index, name in enumerate(classes)}
    for (number, _), label in zip(lines, labels, strict=True):
        if label and label not in number_of:
            near = nearest(label, list(classes)) if classes else "none of them has a label"
            raise ValueError(f"{manifest}, line {number}: the label {label!r} is for eval and no training line has it; {near}")

    def split(rows: np.ndarray) -> Split:
        reader = _Rows(
            manifest=str(manifest),
            lines=np.array([lines[row][0] for row in rows], dtype=np.int64),
            paths=tuple(paths[row] for row in rows),
            labels=np.array([number_of.get(labels[row], -1) for row in rows], dtype=np.int64),
            texts=tuple(lines[row][1]["text"] for row in rows),
        )
        columns = ("image", *(("label",) if (reader.labels >= 0).any() else ()), *(("text",) if any(reader.texts) else ()))
        told = {"words": reader.texts.__getitem__, "paths": reader.paths.__getitem__}
        return Split(len(rows), reader, columns, ids=ids[rows], pictures=pictures[rows], **told)

    return Data(
        name=str(manifest),
        train=split(np.flatnonzero(~is_eval)),
        eval=split(np.flatnonzero(is_eval)),
        classes=classes or None,
        about=f"{len(lines):,} lines on {len(seen):,} pictures",
    )


def _is_eval(manifest: Path, lines: list[Line], names: list[str], ids: np.ndarray, labels: list[str]) -> np.ndarray:
    if any(cells["split"] for _, cells in lines):
        for number, cells in lines:
            if cells["split"].lower() not in ("train", *EVAL_WORDS):
                raise ValueError(f"{manifest}, line {number}: split {cells['split']!r}; expected train, {', '.join(EVAL_WORDS)}")
        return np.array([cells["split"].lower() != "train" for _, cells in lines])

    key: dict[int, str] = {}  # of an id: the least name among its lines, so that their order does not matter
    label_of: dict[int, str] = {}
    for name, group, label in zip(names, ids, labels, strict=True):
        key[group] = min(key.get(group, name), name)
        label_of[group] = max(label_of.get(group, label), label)
    of_label: dict[str, list[int]] = defaultdict(list)
    for group in key:
        of_label[label_of[group]].append(group)
    out = np.zeros(len(lines), dtype=bool)
    for groups in of_label.values():
        out[np.array(groups)[held_out([key[group] for group in groups])]] = True  # a group is the index of its first line
    trained = {label for label, is_out in zip(labels, out[ids], strict=True) if not is_out}
    out[[group for label, group in zip(labels, ids, strict=True) if label not in trained]] = False  # it went out with another label's lines
    return out[ids]


def _first_of(values: Sequence[str]) -> np.ndarray:
    """For every value the index at which it was first seen."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(value, index) for index, value in enumerate(values)], dtype=np.int64)


def _hint(picture: str, cell: str) -> str:
    if os.path.exists(picture):
        return ""
    if os.path.exists(cell):
        return f"; paths are relative to the manifest, {cell!r} is there from the current folder"
    folder, name = os.path.split(picture)
    if not os.path.isdir(folder):
        return f"; there is no folder {folder}"
    stem = Path(name).stem.lower()
    close = sorted(each for each in os.listdir(folder) if Path(each).stem.lower() == stem)
    return f"; did you mean {close[0]!r}?" if close else ""


def _lines(manifest: Path) -> list[Line]:
    """The lines with the cells that a row is made of, each of them there and stripped, "" where it is empty."""
    readers = {".csv": _delimited, ".tsv": _delimited, ".jsonl": _json_lines}
    suffix = manifest.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{manifest}: a manifest ends in {', '.join(readers)}, not in {suffix or 'nothing'}")
    columns, raw = readers[suffix](manifest, _text(manifest))
    if not raw:
        raise ValueError(f"{manifest}: no rows")
    chosen = {kind: next((name for name in names if name in columns), None) for kind, names in _NAMES.items()}
    if chosen["image"] is None or (chosen["label"] is None and chosen["text"] is None):
        raise ValueError(f"{manifest}: the columns are {', '.join(columns)}; {_EXPECTED}")
    lines = [(number, {kind: cells.get(name, "") if name else "" for kind, name in chosen.items()}) for number, cells in raw]
    for number, cells in lines:
        if not cells["image"]:
            raise ValueError(f"{manifest}, line {number}: {chosen['image']} is empty")
    if not any(cells["label"] or cells["text"] for _, cells in lines):
        told = " and ".join(name for name in (chosen["label"], chosen["text"]) if name)
        raise ValueError(f"{manifest}: {told} empty in every row; {_EXPECTED}")
    return lines


def _text(manifest: Path) -> str:
    content = manifest.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{manifest}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def _delimited(manifest: Path, text: str) -> tuple[list[str], list[Line]]:
    header = text.partition("\n")[0]
    tabs = manifest.suffix.lower() == ".tsv" or ("\t" in header and "," not in header)  # open_clip's .csv files are separated by tabs
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    columns: list[str] = []
    lines: list[Line] = []
    start = 1
    try:
        for record in reader:
            number, start = start, reader.line_num + 1  # a quoted cell may go over several lines
            cells = [cell.strip() for cell in record]
            if not any(cells):
                continue
            if not columns:
                columns = [cell.lower() for cell in cells]
                twice = sorted({name for name in columns if columns.count(name) > 1})
                if twice:
                    raise ValueError(f"{manifest}, line {number}: the column {twice[0]!r} is there twice")
                continue
            if len(cells) != len(columns):
                quote = "" if len(cells) < len(columns) else f"; a cell with a {'tab' if tabs else 'comma'} inside needs quotes"
                expected = f"expected {len(columns)} ({', '.join(columns)})"
                raise ValueError(f"{manifest}, line {number}: {len(cells)} cells, {expected}{quote}")
            lines.append((number, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{manifest}, line {start}: {error}; a quote inside a quoted cell is written twice") from error
    return columns, lines


def _json_lines(manifest: Path, text: str) -> tuple[list[str], list[Line]]:
    columns: dict[str, None] = {}
    lines: list[Line] = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON may hold U+2028 as it is
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{manifest}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{manifest}, line {number}: expected an object with the keys of a row, got {line.strip()[:40]}")
        cells = {name.strip().lower(): _cell(manifest, number, name, value) for name, value in record.items()}
        columns.update(dict.fromkeys(cells))
        lines.append((number, cells))
    return list(columns), lines


def _cell(manifest: Path, number: int, name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    known = any(name.strip().lower() in names for names in _NAMES.values())
    if known and isinstance(value, list | dict):
        got = json.dumps(value)[:40]
        raise ValueError(f"{manifest}, line {number}: {name} is {got}; expected a string (several captions are several lines)")
    return json.dumps(value)

"""A manifest: one line a thing and what belongs to it, as CSV, TSV, JSON Lines or Parquet.

Columns: `image` (a path, relative to the manifest's folder), `caption`, `label` (or `labels`, several in a cell), `id` and `split`;
open_clip's names are understood: `filepath` for image, `title` for caption; `text` too. Any other column is a modality, or part of a table,
under its own name: numbers, texts, lists of numbers, or files, whose paths are relative to the manifest too. An empty cell is a missing
value. Several lines with one image or file are several captions of it. Every picture's header is looked at when the manifest is opened, of
other files only whether they are there, and whatever is wrong is told with file and line (in Parquet: row).
"""

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from registry import nearest

from ..progress import tracked
from .components import components
from .data import Data, Row, Split
from .picture import BrokenPicture, check_picture, read_picture
from .splits import EVAL_WORDS, held_out, sort_classes

_NAMES = {
    "image": ("image", "filepath"),
    "label": ("label",),
    "labels": ("labels",),
    "text": ("caption", "title", "text"),
    "id": ("id",),
    "split": ("split",),
}
_EXPECTED = "expected two or more of: image (or filepath), caption (or title, text), label(s), columns of your own; optional id, split"
_NUMBERING = ("index", "")  # what pandas calls the column of line numbers; rows are given an `index` of their own

Line = tuple[int, dict[str, Any]]  # line number in the file, from 1, and its cells


@dataclass(frozen=True)
class _Rows:
    manifest: str
    lines: np.ndarray  # [rows]
    paths: tuple[str, ...]  # "": none
    labels: np.ndarray  # [rows], -1: none
    several: tuple[tuple[int, ...] | None, ...]  # of a column `labels`, None: not said
    texts: tuple[str, ...]  # "": none
    own: dict[str, tuple[Any, ...]]  # None: none

    def __call__(self, index: int) -> Row:
        try:
            picture = {"image": read_picture(self.paths[index])} if self.paths[index] else {}
        except BrokenPicture as error:
            raise BrokenPicture(error.path, error.why, self.where(index)) from error
        return {**picture, **self.cells(index)}

    def where(self, index: int) -> str:
        return f"{self.manifest}, line {self.lines[index]}"

    def cells(self, index: int) -> Row:
        row: Row = {"label": int(self.labels[index])} if self.labels[index] >= 0 else {}
        if (several := self.several[index]) is not None:
            row["labels"] = several
        if self.texts[index]:
            row["text"] = self.texts[index]
        return row | {name: values[index] for name, values in self.own.items() if values[index] is not None}

    @property
    def columns(self) -> tuple[str, ...]:
        many = any(each is not None for each in self.several)
        known = {"image": any(self.paths), "label": (self.labels >= 0).any(), "labels": many, "text": any(self.texts)}
        own = {name: any(value is not None for value in values) for name, values in self.own.items()}
        return tuple(name for name, there in (known | own).items() if there)


def read_manifest(path: str | PathLike[str], *, broken: bool = False) -> Data:
    """Rows `image`, `label` or `labels`, `text` and the columns that are the user's own, where the line has them.

    A cell of an own column is a stripped text, or in JSON Lines and Parquet what stands there: a number, a list of numbers as a float32
    array. A column whose first cell names a file, relative to the manifest, is a column of files: its values are absolute paths.
    Classes are sorted by name, or by number if all are whole numbers.

    `ids` are equal where lines share an `id`, a picture or another file, directly or through others; `pictures` where they share the
    picture. In the `split` column, train is train; eval, val, valid, validation and test are eval; either side may have no rows. Without
    the column about a fifth of the ids (of every label, if there are labels) is held out by a hash: all lines of an id, so all captions
    of a picture, are on one side.

    Args:
        path: of the manifest.
        broken: open it also where pictures are missing or broken: whoever reads such a row meets a BrokenPicture.

    Raises:
        FileNotFoundError: there is no such manifest.
        ValueError: what is wrong, with its line: too few columns, a line with nothing in it, a file that is missing, an unknown split ...
        ImportError: a .parquet manifest, and the extra `parquet` is not installed.
    """
    manifest = Path(os.path.abspath(path))
    if not manifest.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, not a manifest file' if manifest.is_dir() else 'no such manifest'}")
    lines, own, has_image = _lines(manifest)
    names = [_content(cells) for _, cells in lines]  # before cells become absolute paths, which differ from machine to machine
    files = _find_files(manifest, lines, own)
    if files and not has_image:
        _no_pictures(manifest, lines, files)
    paths = [os.path.normpath(manifest.parent / cells["image"]) if cells["image"] else "" for _, cells in lines]
    seen: set[str] = {""}
    for (number, cells), picture in tracked(zip(lines, paths, strict=True), len(lines), "pictures"):
        if picture not in seen:
            seen.add(picture)
            if broken:
                continue
            try:
                check_picture(picture)
            except ValueError as error:
                raise ValueError(f"{manifest}, line {number}: {error}{_hint(picture, cells['image'])}") from error

    for column in [[cells.get(name) for _, cells in lines] for name in reversed(files)] + [paths]:  # the picture's name before all others
        names = [_relative(file, manifest) if file else name for file, name in zip(column, names, strict=True)]
    pictures = _first_of(paths)
    same = [pictures, *(_first_of([cells.get(column) for _, cells in lines]) for column in ("id", *files))]
    ids = components(len(lines), (pair for column in same for pair in enumerate(column)))
    labels = [cells["label"] for _, cells in lines]
    several = [cells.get("labels") for _, cells in lines]
    is_eval = _is_eval(manifest, lines, names, ids, labels)

    told = [each or ((label,) if label else ()) for each, label in zip(several, labels, strict=True)]
    classes = sort_classes(label for labels_, out in zip(told, is_eval, strict=True) if not out for label in labels_)
    if is_eval.all():
        classes = sort_classes(label for labels_ in told for label in labels_)
    number_of = {name: index for index, name in enumerate(classes)}
    for (number, _), labels_ in zip(lines, told, strict=True):
        for label in labels_:
            if label not in number_of:
                near = nearest(label, list(classes)) if classes else "none of them has a label"
                raise ValueError(f"{manifest}, line {number}: the label {label!r} is for eval and no training line has it; {near}")

    def split(rows: np.ndarray) -> Split:
        reader = _Rows(
            manifest=str(manifest),
            lines=np.array([lines[row][0] for row in rows], dtype=np.int64),
            paths=tuple(paths[row] for row in rows),
            labels=np.array([number_of.get(labels[row], -1) for row in rows], dtype=np.int64),
            several=tuple(None if several[row] is None else tuple(sorted(number_of[label] for label in several[row])) for row in rows),
            texts=tuple(lines[row][1]["text"] for row in rows),
            own={name: tuple(lines[row][1].get(name) for row in rows) for name in own},
        )
        same = ids[rows], pictures[rows]
        return Split(len(rows), reader, reader.columns, *same, cells=reader.cells, paths=reader.paths.__getitem__, where=reader.where)

    return Data(
        name=str(manifest),
        train=split(np.flatnonzero(~is_eval)),
        eval=split(np.flatnonzero(is_eval)),
        classes=classes or None,
        about=f"{len(lines):,} lines" + (f" on {len(seen) - 1:,} pictures" if any(paths) else ""),
    )


def _content(cells: dict[str, Any]) -> str:
    """A line's name where no file gives it one: what it says, so that equal lines fall on the same side wherever they stand."""
    said = [(key, value.tobytes() if isinstance(value, np.ndarray) else value) for key, value in cells.items() if key != "split"]
    return blake2b(repr(sorted(said, key=lambda cell: cell[0])).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _relative(file: str, manifest: Path) -> str:
    return os.path.relpath(file, manifest.parent).replace(os.sep, "/")


def _find_files(manifest: Path, lines: list[Line], own: Sequence[str]) -> list[str]:
    """The columns whose first cell names a file; their cells become absolute paths."""
    found = []
    for name in own:
        there = [(number, cells) for number, cells in lines if name in cells]
        first = there[0][1][name] if there else None
        if not isinstance(first, str) or not os.path.isfile(manifest.parent / first):
            continue
        found.append(name)
        known: set[str] = set()
        for number, cells in there:
            cell = str(cells[name])
            path = cells[name] = os.path.normpath(manifest.parent / cell)
            if path not in known and not os.path.isfile(path):
                told = f"{path}: no such file{_hint(path, cell)}"
                raise ValueError(f"{manifest}, line {number}: {told} ({name} is a column of files, as its first cell is one)")
            known.add(path)
    return found


def _no_pictures(manifest: Path, lines: list[Line], files: Sequence[str]) -> None:
    for name in files:
        try:
            check_picture(next(cells[name] for _, cells in lines if name in cells))
        except ValueError:
            continue
        raise ValueError(f"{manifest}: there is no column image (or filepath), and {name} names pictures; call that one image")


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
    several = [set(cells.get("labels") or ()) for _, cells in lines]
    learnt = {label for each, is_out in zip(several, out[ids], strict=True) if not is_out for label in each}
    for each, group in zip(several, ids, strict=True):
        if out[group] and not each <= learnt:  # a label that all others have missed
            out[group] = False
            learnt |= each
    return out[ids]


def _first_of(values: Sequence[str | None]) -> np.ndarray:
    """For every value the index at which it was first seen; nothing is like nothing else."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(value, index) if value else index for index, value in enumerate(values)], dtype=np.int64)


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


def _lines(manifest: Path) -> tuple[list[Line], list[str], bool]:
    """The lines with their cells, the columns that are the user's own, and whether there is a column for pictures.

    Cells of the known kinds are there and stripped, "" where empty; those of own columns are there where they are not empty.
    """
    readers = {".csv": _delimited, ".tsv": _delimited, ".jsonl": _json_lines, ".parquet": _parquet}
    suffix = manifest.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{manifest}: a manifest ends in {', '.join(readers)}, not in {suffix or 'nothing'}")
    columns, raw = readers[suffix](manifest)
    if not raw:
        raise ValueError(f"{manifest}: no rows")
    chosen = {kind: next((name for name in names if name in columns), None) for kind, names in _NAMES.items()}
    own = [name for name in columns if name not in (*chosen.values(), *_NUMBERING, *_NAMES)]
    if chosen["label"] and chosen["labels"]:
        raise ValueError(f"{manifest}: there is a column label and a column labels; a row has one label, or several")
    told = {kind: name for kind in ("image", "text", "label", "labels") if (name := chosen[kind])} | {name: name for name in own}
    if len(told) < 2:
        raise ValueError(f"{manifest}: the columns are {', '.join(columns)}; {_EXPECTED}")
    things = [name for key, name in told.items() if key not in ("label", "labels")]
    for number, cells in raw:
        if not any(name in cells for name in things):
            raise ValueError(f"{manifest}, line {number}: {' and '.join(things)} {'is' if len(things) == 1 else 'are'} empty")
    idle = [name for name in told.values() if not any(name in cells for _, cells in raw)]
    if len(told) - len(idle) < 2:
        raise ValueError(f"{manifest}: {' and '.join(idle)} empty in every row; {_EXPECTED}")
    lines: list[Line] = []
    for number, cells in raw:
        known: dict[str, Any] = {kind: cells.get(name, "") if name else "" for kind, name in chosen.items() if kind != "labels"}
        if chosen["labels"]:  # an empty cell says that there is none; a key that is missing says nothing
            known["labels"] = cells.get("labels", () if suffix in (".csv", ".tsv") else None)
        lines.append((number, known | {name: cells[name] for name in own if name in cells}))
    return lines, own, chosen["image"] is not None


def _text(manifest: Path) -> str:
    content = manifest.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{manifest}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def _delimited(manifest: Path) -> tuple[list[str], list[Line]]:
    text = _text(manifest)
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
                columns = _columns(f"{manifest}, line {number}", cells)
                continue
            if len(cells) != len(columns):
                quote = "" if len(cells) < len(columns) else f"; a cell with a {'tab' if tabs else 'comma'} inside needs quotes"
                expected = f"expected {len(columns)} ({', '.join(columns)})"
                raise ValueError(f"{manifest}, line {number}: {len(cells)} cells, {expected}{quote}")
            named: dict[str, Any] = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
            if "labels" in named:
                named["labels"] = _several(f"{manifest}, line {number}", named["labels"])
            lines.append((number, named))
    except csv.Error as error:
        raise ValueError(f"{manifest}, line {start}: {error}; a quote inside a quoted cell is written twice") from error
    return columns, lines


def _json_lines(manifest: Path) -> tuple[list[str], list[Line]]:
    columns: dict[str, None] = {}
    lines: list[Line] = []
    for number, line in enumerate(_text(manifest).split("\n"), start=1):  # not splitlines: JSON may hold U+2028 as it is
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{manifest}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{manifest}, line {number}: expected an object with the keys of a row, got {line.strip()[:40]}")
        columns.update(dict.fromkeys(name.strip().lower() for name in record))
        lines.append((number, _cells(f"{manifest}, line {number}", record)))
    return list(columns), lines


def _parquet(manifest: Path) -> tuple[list[str], list[Line]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("a .parquet manifest needs pyarrow: pip install 'effnet-zoo[parquet]'") from error
    try:
        with parquet.ParquetFile(manifest) as file:
            columns = _columns(str(manifest), file.schema_arrow.names)
            records = (
                record for batch in file.iter_batches(1024) for record in batch.to_pylist()
            )  # long lists are Python's for a moment only
            return columns, [(row, _cells(f"{manifest}, line {row}", record)) for row, record in enumerate(records, start=1)]
    except pyarrow.ArrowException as error:
        raise ValueError(f"{manifest}: not a Parquet file that pyarrow reads: {str(error).splitlines()[0]}") from error


def _columns(where: str, header: Iterable[str]) -> list[str]:
    columns = [name.strip().lower() for name in header]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(f"{where}: the column {twice[0]!r} is there twice")
    return columns


def _several(where: str, value: Any) -> tuple[str, ...]:
    """The labels in a cell: "cat|dog", or in JSON Lines and Parquet a list; each once, and none if it is empty."""
    given = value.split("|") if isinstance(value, str) else value if isinstance(value, list) else None
    if given is None or not all(isinstance(each, str | int) and not isinstance(each, bool) for each in given):
        got = json.dumps(value, default=str)[:40]
        raise ValueError(f"{where}: labels is {got}; expected a list of names or numbers, or names between bars: cat|dog")
    return tuple(dict.fromkeys(name for each in given if (name := str(each).strip())))


def _cells(where: str, record: dict[str, Any]) -> dict[str, Any]:
    """What a record says, empty cells left out: text where the column is a known one, else also numbers, and lists of them as arrays."""
    cells = {}
    for given, value in record.items():
        name = given.strip().lower()
        known = any(name in names for names in _NAMES.values())
        if name == "labels" and value is not None:
            cells[name] = _several(where, value)
            continue
        if isinstance(value, str):
            value = value.strip()
        if value is None or value == "" or value != value:  # a NaN, as pandas writes what is missing
            continue
        if known and not isinstance(value, str | int | float):
            got = json.dumps(value, default=str)[:40]
            hint = "several labels of a row go into a column called labels" if name == "label" else "several captions are several lines"
            raise ValueError(f"{where}: {given} is {got}; expected a string ({hint})")
        if known and not isinstance(value, str):
            value = json.dumps(value)
        elif isinstance(value, list) and value and all(isinstance(each, int | float) for each in value):
            value = np.array(value, dtype=np.float32)  # an eighth of what the list takes
        elif not isinstance(value, str | int | float | list):
            value = str(value)
        cells[name] = value
    return cells

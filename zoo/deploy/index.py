"""An index: the embeddings of a split, kept beside the run, so that only the first search has to read and to embed the rows.

    score(q, x) = <q, x>                    both of unit length: the cosine

What an index was made of is written into it: a digest of the run's weights, one of the data's source (the manifest, the names in a folder,
the name and version of named data), and size and time of every file that a row was read from. If one of them differs, it is made again.

It is one file, written under a name of its own and renamed, so that two processes at once leave the index of one or the other, and a killed
one leaves the old. A checksum tells a damaged file.
"""

import hashlib
import importlib.metadata
import json
import os
import secrets
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from registry import DATASETS, nearest

from ..datasets import Row, Split
from ..progress import console, tracked
from ..train import Align
from ..train.broken import EVALUATED, Broken, BrokenFiles
from ..train.engine import Engine
from ..train.loader import Batch, InOrder, PreparedRows, load
from .cells import build_cells, faiss_is_there, read_cells, search_cells, write_cells

MANY = 1_000_000  # rows from which cells are looked into, if faiss is there: docs/search.md
_CHUNK, _QUERIES = 4096, 256  # rows and queries at a time
_FORMAT = 1
_FILE = "index.safetensors"
_LAST = 0xFFFFFFFF


def _say(line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False)


def _replace(file: Path, write: Callable[[Path], None]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    writing = file.with_name(f".writing-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        write(writing)
        writing.replace(file)
    finally:
        writing.unlink(missing_ok=True)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    crc = 0
    for key in sorted(tensors):
        crc = zlib.crc32(tensors[key].contiguous().numpy().data, zlib.crc32(f"{key} {tuple(tensors[key].shape)}".encode(), crc))
    return crc


def nearest_rows(queries: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k rows of the gallery with the largest products, best first; of equal ones the earlier first. All rows where k is larger.

    One number orders both: the float's bits, which rise with it once those of the negative ones are flipped, above the row counted from the
    end. So ties cost nothing, and of each chunk only k numbers are kept.

    Args:
        queries, gallery: `[Q, D]` and `[n, D]`, n below 2**32.

    Returns:
        scores `[Q, min(k, n)]` float32, and rows, int64.
    """
    found = []
    for asked in queries.float().split(_QUERIES) if len(queries) else [queries.float()]:
        best = torch.empty(len(asked), 0, dtype=torch.int64)
        for first in range(0, len(gallery), _CHUNK):
            part = gallery[first : first + _CHUNK].float()
            bits = (asked @ part.T + 0.0).view(torch.int32)  # + 0.0: there is a zero below zero
            places = torch.arange(first, first + len(part))
            keys = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) | (_LAST - places)
            best = torch.cat([best, keys], dim=1)
            best = best.topk(min(k, best.shape[1]), dim=1).values
        found.append(best)
    best = torch.cat(found)
    bits = (best >> 32).int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32), _LAST - (best & _LAST)


@dataclass(eq=False)
class Index:
    """Embeddings of a split and what can be shown of its rows.

    Args:
        embeddings: modality -> `[n, D]` float32 of unit length.
        rows: modality -> `[n]` int64, rising: the rows that they belong to. Of rows with the same picture, or the same caption, the first.
        shown: of every row what is JSON: captions, labels, "path" of its picture, and "files" that it was read from, {path: [size, time]}.
        about: what it was made of.
        folder: where it is kept.
    """

    embeddings: dict[str, Tensor]
    rows: dict[str, Tensor]
    shown: list[dict[str, Any]]
    about: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    _cells: dict[str, Any] = field(default_factory=dict, repr=False)

    def search(self, modality: str, queries: Tensor, k: int, *, exact: bool = False) -> tuple[Tensor, Tensor]:
        """(cosines, rows of the split), both `[Q, k]`, best first; fewer columns where there are fewer rows.

        Every row is looked at, in float32, and ties come in the order of the rows. From MANY rows on, if faiss is installed, only the
        nearest cells are, unless `exact`.

        Raises:
            ValueError: k below 1, queries of another width, or nothing of this modality among the rows.
        """
        if modality not in self.embeddings:
            raise ValueError(f"no {modality} among the {len(self.shown)} rows; {nearest(modality, list(self.embeddings))}")
        gallery = self.embeddings[modality]
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        if queries.ndim != 2 or queries.shape[1] != gallery.shape[1]:
            raise ValueError(f"queries: expected [Q, {gallery.shape[1]}], got {list(queries.shape)}")
        k = min(k, len(gallery))
        if not exact and len(gallery) >= MANY and faiss_is_there():
            found, at = search_cells(self._cells_of(modality), queries.float().numpy(), k)
            if (at >= 0).all():
                return torch.from_numpy(found), self.rows[modality][torch.from_numpy(at)]
        scores, places = nearest_rows(queries, gallery, k)
        return scores, self.rows[modality][places]

    def _cells_of(self, modality: str) -> Any:
        if modality in self._cells:
            return self._cells[modality]
        embeddings = self.embeddings[modality]
        name = f"{modality}-{_checksum({modality: embeddings}):08x}.faiss"  # another name for other rows
        cells = read_cells(self.folder / name, tuple(embeddings.shape)) if self.folder else None
        if cells is None:
            cells = build_cells(embeddings.numpy())
            if self.folder:
                with suppress(OSError, RuntimeError):  # a folder that cannot be written into: they are made again the next time
                    for old in self.folder.glob(f"{modality}-*.faiss"):
                        old.unlink(missing_ok=True)
                    _replace(self.folder / name, write_cells(cells))
        self._cells[modality] = cells
        return cells

    def save(self, folder: Path) -> None:
        """Write it into the folder: embeddings and rows as safetensors, with the rest as JSON in the tensor `json`."""
        rest = json.dumps({"about": self.about, "shown": self.shown}).encode()
        tensors = {"json": torch.frombuffer(bytearray(rest), dtype=torch.uint8)}
        for name, each in self.embeddings.items():
            tensors |= {f"embeddings.{name}": each.contiguous(), f"rows.{name}": self.rows[name].contiguous()}
        tensors["crc32"] = torch.tensor(_checksum(tensors))
        _replace(folder / _FILE, lambda file: safetensors.torch.save_file(tensors, file))
        self.folder = folder

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged.
        """
        path = folder / _FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such index")
        try:
            tensors = safetensors.torch.load(path.read_bytes())  # load_file opens it twice, and in between it may have been replaced
            if int(tensors.pop("crc32")) != _checksum(tensors):
                raise ValueError("its checksum is another")
            rest = json.loads(tensors.pop("json").numpy().tobytes())
            parts: dict[str, dict[str, Tensor]] = {"embeddings": {}, "rows": {}}
            for key, tensor in tensors.items():
                kind, _, name = key.partition(".")
                parts[kind][name] = tensor
            return cls(parts["embeddings"], parts["rows"], rest["shown"], rest["about"], folder)
        except (safetensors.SafetensorError, OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
            why = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(f"{path} is damaged ({why})") from error

    def changed(self, about: Mapping[str, Any]) -> str:
        """What is no longer as it was when this index was made, in words; "" where nothing is."""
        for key, value in about.items():
            if self.about.get(key) != value:
                return f"the {key} has changed"
        seen: set[str] = set()
        for shown in self.shown:
            for path, stamp in shown.get("files", {}).items():
                if path not in seen and _stamp(path) != stamp:
                    return f"{path} has changed"
                seen.add(path)
        return ""


def nearest_items(
    indices: dict[str, Index], modality: str, query: torch.Tensor, k: int, *, exact: bool = False
) -> list[tuple[str, int, float, dict[str, Any]]]:
    """(split, row, cosine, what can be shown) of the k nearest different things of a modality in several splits, best first."""
    found = []
    for split, index in indices.items():
        if modality in index.embeddings:
            scores, rows = index.search(modality, query, k, exact=exact)
            found += [(split, row, score, index.shown[row]) for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True)]
    different: dict[Any, tuple[str, int, float, dict[str, Any]]] = {}
    for split, row, score, shown in sorted(found, key=lambda each: -each[2]):
        value = shown.get("path" if modality == "image" else modality)
        different.setdefault((split, row) if value is None else json.dumps(value), (split, row, score, shown))
    return list(different.values())[:k]


def _stamp(path: str) -> list[int] | None:
    """Size and time of a file; None where there is none."""
    with suppress(OSError, ValueError):
        stat = os.stat(path)
        return [stat.st_size, stat.st_mtime_ns]
    return None


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_json(each) for each in value.values())
    return value is None or isinstance(value, str | int | float)


class _ShownRows(PreparedRows):
    """Prepared rows, and under "shown" what can be shown of them; a picture that an earlier row has too is left out."""

    def __init__(self, split: Split, task: Align, broken: str):
        super().__init__(split, task.prepare(False), 0, broken=EVALUATED[broken], holes=True)
        self.collate = task.collate
        self.repeated = np.ones(len(split), dtype=bool)
        self.repeated[np.unique(split.pictures, return_index=True)[1]] = False

    def __getitem__(self, key: tuple[int, int]) -> Row:
        path, files = self._file(key[1])  # before it is opened: what is replaced meanwhile is seen the next time
        return self._shown(key[1], self.split[key[1]], path, files)

    def _finished(self, index: int, row: Row) -> Row:
        """Of a row in which something can not be read."""
        return self._shown(index, row, *self._file(index))

    def _file(self, index: int) -> tuple[str, dict[str, list[int] | None]]:
        path = self.split.paths(index) if self.split.paths is not None else ""
        return path, {path: _stamp(path)} if path else {}

    def _shown(self, index: int, row: Row, path: str, files: dict[str, list[int] | None]) -> Row:
        shown = {name: value for name, value in row.items() if _is_json(value)}
        named = [value for value in shown.values() if isinstance(value, str) and os.path.isabs(value)]
        files |= {value: stamp for value in named if (stamp := _stamp(value))}
        shown |= {**({"path": path} if path else {}), **({"files": files} if files else {})}
        kept = {name: value for name, value in row.items() if name != "image" or not self.repeated[index]}
        return {**self.prepare(kept), "id": int(self.split.ids[index]), "index": index, "shown": shown}

    def batch(self, rows: Sequence[Row]) -> Batch:
        shown = [row["shown"] for row in rows]
        return {**self.collate([{key: value for key, value in row.items() if key != "shown"} for row in rows]), "shown": shown}


def build_index(task: Align, split: Split, engine: Engine, *, batch_size: int = 256, workers: int = 0, broken: str = "raise") -> Index:
    """Embed every row of a split, each picture and each caption once.

    Raises:
        ValueError: a row that cannot be read; unless `broken` is "skip" or "replace", where a picture that can not be read is left out.
    """
    engine.place(task)
    task.eval()
    plan, prepared = InOrder(len(split), batch_size), _ShownRows(split, task, broken)
    shown: list[dict[str, Any]] = []
    lost: list[Broken] = []

    def batches() -> Iterator[Batch]:
        for batch in tracked(load(prepared, plan, prepared.batch, workers=workers, pin=False), len(plan), "embed"):
            lost.extend(batch.pop("broken", ()))
            shown.extend(batch.pop("shown"))
            if any(name in batch for name in task.columns):
                yield engine.to_device(batch)

    embeddings, rows = task.embed_all(batches(), task.joint)
    BrokenFiles().tell(lost, "left out of the index")
    for name in embeddings:
        first: dict[str, int] = {}
        for place, row in enumerate(rows[name].tolist()):
            value = shown[row].get(name)
            first.setdefault(str(row) if value is None else json.dumps(value), place)  # a number alone is no value's JSON: those are text
        chosen = torch.tensor(list(first.values()))
        embeddings[name], rows[name] = embeddings[name][chosen], rows[name][chosen]
    return Index(embeddings, rows, shown)


def model_digest(run: Path) -> str:
    """sha256 over the files that a run's model is read from, whole: another run's are as long, and a copy may keep its time."""
    digest = hashlib.sha256(f"{_FORMAT} {importlib.metadata.version('effnet-zoo')}".encode())
    patterns = (below + kind for below in ("", "tower.*/") for kind in ("*.json", "*.safetensors"))
    for path in sorted(path for pattern in patterns for path in run.glob(pattern)):
        with open(path, "rb") as file:
            digest.update(f"\n{path.relative_to(run)} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()


def _versions(packages: Iterable[str]) -> Iterator[str]:
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield f"{package} {importlib.metadata.version(package)}"


def source_digest(data: str) -> str | None:
    """sha256 over what a data string's rows come from, without opening them; None where that cannot be known.

    Of named data its name, options, code, and the versions of the packages that carry it; of a folder the names of its files; of a manifest
    its content. The files that rows name are looked at row by row, see `Index.changed`.
    """
    name = data.partition(":")[0]
    digest = hashlib.sha256(os.fsencode(data))
    if name in DATASETS:
        code = getattr(sys.modules.get(DATASETS[name].__module__), "__file__", None)
        digest.update(Path(code).read_bytes() if code else b"")
        digest.update("\n".join(_versions(("effnet-zoo", "matplotlib", "pillow", "scikit-learn"))).encode())
    elif os.path.isdir(data):
        for here, folders, names in os.walk(data, followlinks=True):
            folders.sort()
            digest.update(b"\0".join(os.fsencode(each) for each in (here, *sorted(names))) + b"\0\0")
    elif os.path.isfile(data):
        digest.update(Path(data).read_bytes())
    else:
        return None
    return digest.hexdigest()


def kept_index(run: Path, data: str, split: str, build: Callable[[], Index], *, model: str, rebuild: bool = False) -> Index:
    """The index that is kept in RUN/index/ for this data and split; made, and kept, where there is none or it is out of date.

    Args:
        run: the run directory.
        data: the data string.
        split: the name of the split.
        build: makes the index.
        model: `model_digest` of the run, taken before its weights were loaded: what is trained again meanwhile is seen the next time.
        rebuild: make it in any case.
    """
    if data.partition(":")[0] not in DATASETS and os.path.exists(data):
        data = os.path.abspath(data)
    source = source_digest(data)
    if source is None:
        return build()
    folder = run / "index" / hashlib.sha256(os.fsencode(f"{data}\n{split}")).hexdigest()[:16]
    about = {"model": model, "data": source}
    if not rebuild:
        try:
            index = Index.load(folder)
        except FileNotFoundError:
            pass
        except ValueError as error:
            _say(f"{error}; built again")
        else:
            changed = index.changed(about)
            if not changed:
                return index
            _say(f"{changed} since {folder} was built; built again")
    index = build()
    index.about = about
    try:
        index.save(folder)
    except (OSError, safetensors.SafetensorError) as error:
        _say(f"the index is not kept: {error}")
    return index

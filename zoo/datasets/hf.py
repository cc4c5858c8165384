"""A dataset of Hugging Face's `datasets`, from the hub or from a folder.

    hf:NAME                                     train, and the first of eval, val, valid, validation, test
    hf:DIR,image=img,text=caption,eval=test     a folder of parquet or of pictures, or what `save_to_disk` wrote
    hf:NAME,streaming=true                      read forward, nothing is kept on the disk

It is a table, and every row is at hand: shuffled, split and resumed like any other data. With streaming it is read forward (`stream.py`).
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from registry import nearest

from ..progress import tracked
from .components import components
from .data import Data, Row, Split
from .data_string import take_apart, whole, yes
from .hf_columns import Columns
from .splits import EVAL_WORDS, held_out
from .stream import Forward

_COLUMNS = ("image", "text", "label", "id")
_OPTIONS = {
    **{"image": "img", "text": "caption", "label": "label", "id": "image_id"},
    **{"config": "plain_text", "train": "train", "eval": "test", "revision": "main"},
    **{"streaming": "true", "size": "10000", "eval_size": "1000"},
}
_BATCH = 64  # items that are fetched at a time where they are read forward


def read_hf(data: str) -> Data:
    """Rows `image`, `text`, and `label` (of a ClassLabel, a number or a name) or `labels` (of a list of them).

    Other columns of numbers, texts or lists of them are there under their own names. An item with several captions is a row of each; where
    it is read forward, of the first. Rows are the same thing where their `id` is equal, or, where a row has one caption, the bytes of their
    pictures are.

    Without an eval split about a fifth of the things is held out by a hash.

    Args:
        data: "hf:NAME_OR_DIR" with the options `image`, `text`, `label`, `id` (columns), `config`, `train`, `eval` (splits), `revision`,
            `streaming`, and for that `size` and `eval_size`, which spare the counting.

    Raises:
        ImportError: the extra `datasets` is not installed.
        FileNotFoundError: no such dataset.
        ValueError: no such split or column, or nothing to learn from.
    """
    what, given = take_apart(data, _OPTIONS)
    streaming = yes(data, given, "streaming")
    sizes = whole(data, given, "size"), whole(data, given, "eval_size")
    if any(sizes) and not streaming:
        raise ValueError(f"data {data!r}: size is for streaming=true; without it the rows are counted")
    found = _opened(data, what, given, streaming)
    what = os.path.abspath(what) if os.path.isdir(what) else what
    name = ",".join([f"hf:{what}", *(f"{key}={value}" for key, value in given.items())])
    splits = _splits(data, found, given)
    features = splits[0].features
    if features is None:
        raise ValueError(f"data {data!r}: its columns are not known before it is read; leave out streaming=true")
    columns = Columns.of(f"data {data!r}", features, {key: given[key] for key in _COLUMNS if key in given})
    if splits[1] is not None and (missing := [column for column in features if column not in splits[1].features]):
        raise ValueError(f"data {data!r}: the eval split has no column {missing[0]!r}")
    if columns.image is not None:
        splits = tuple(each and each.cast_column(columns.image, _encoded()) for each in splits)
    if streaming:
        return _streamed(data, name, splits, columns, sizes)
    return _at_hand(name, splits, columns)


def _encoded() -> Any:
    from datasets import Image

    return Image(decode=False)


def _opened(data: str, what: str, given: Mapping[str, str], streaming: bool) -> Mapping[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("data hf: needs Hugging Face's datasets: pip install 'effnet-zoo[datasets]'") from error
    folder = Path(what)
    saved = [name for name in ("dataset_dict.json", "state.json") if (folder / name).is_file()]
    if saved and streaming:
        raise ValueError(f"data {data!r}: it lies on the disk, and every row is at hand: leave out streaming=true")
    if what.startswith((".", "/", "~")) and not folder.expanduser().is_dir():
        raise FileNotFoundError(f"data {data!r}: no such folder")
    options = {key: given[key] for key in ("revision",) if key in given}
    try:
        if saved:
            found = datasets.load_from_disk(what)
        else:
            found = datasets.load_dataset(str(folder.expanduser()), given.get("config"), streaming=streaming, **options)
    except (FileNotFoundError, ConnectionError, OSError) as error:
        raise FileNotFoundError(f"data {data!r}: {_first_line(error)}") from error
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"data {data!r}: {_first_line(error)}") from error
    return found if isinstance(found, Mapping) else {"train": found}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _splits(data: str, found: Mapping[str, Any], given: Mapping[str, str]) -> tuple[Any, ...]:
    """The split for training, and the one for eval or None."""
    there = list(found)
    for key in ("train", "eval"):
        if key in given and given[key] not in found:
            raise ValueError(f"data {data!r}: there is no split {given[key]!r}; {nearest(given[key], there)}")
    train = given.get("train") or ("train" if "train" in found else there[0] if len(there) == 1 else "")
    if not train:
        raise ValueError(f"data {data!r}: the splits are {', '.join(there)}; say which is for training: train={there[0]}")
    held = given.get("eval") or next((word for word in EVAL_WORDS if word in found and word != train), None)
    if held == train:
        raise ValueError(f"data {data!r}: {train} is for training and for eval; without eval= a fifth of it is held out")
    return found[train], found[held] if held is not None else None


# Every row at hand.


@dataclass(frozen=True)
class _Rows:
    """index -> row, of one split."""

    table: Any
    words: Any  # the table without its pictures, which are most of it
    columns: Columns
    items: np.ndarray  # [rows], which item of the table
    captions: np.ndarray | None  # [rows], which of its captions; None: a text each
    name: str

    def __call__(self, index: int) -> Row:
        item = self.table[int(self.items[index])]
        return self.columns.picture(item, self.where(index)) | self._cells(item, index)

    def cells(self, index: int) -> Row:
        return self._cells(self.words[int(self.items[index])], index)

    def _cells(self, item: Mapping[str, Any], index: int) -> Row:
        return self.columns.cells(item, None if self.captions is None else int(self.captions[index]), self.where(index))

    def where(self, index: int) -> str:
        return f"{self.name}, row {self.items[index]}"


def _at_hand(name: str, splits: Sequence[Any], columns: Columns) -> Data:
    import datasets

    train, held = splits
    if held is not None:
        names = (f"{name}, train", f"{name}, eval")
        chosen = [np.arange(len(train)), np.arange(len(held))]
        tables = [train, held]
    else:
        names = (name, name)
        out = _hold_out(train, columns)
        chosen = [np.flatnonzero(~out), np.flatnonzero(out)]
        tables = [train, train]
    if columns.label is not None and columns.classes is None:
        columns = columns.with_classes(train[columns.label])

    def split(which: int) -> Split:
        table, items, captions = tables[which], chosen[which], None
        if columns.text is not None and isinstance(table.features[columns.text], datasets.List | datasets.LargeList):
            counts = np.array([max(1, len(texts or ())) for texts in table[columns.text]], dtype=np.int64)[items]
            captions = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            items = np.repeat(items, counts)
        things, pictures = (of[items] for of in _same(table, columns))
        words = table if columns.image is None else table.remove_columns(columns.image)
        reader = _Rows(table, words, columns, items, captions, names[which])
        return Split(len(items), reader, columns.keys, ids=things, pictures=pictures, cells=reader.cells, where=reader.where)

    both = split(0), split(1)
    about = f"{sum(len(each) for each in chosen):,} items"
    return Data(name=name, train=both[0], eval=both[1], classes=columns.classes, about=about)


def _same(table: Any, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Of every item the first one that is the same thing, and the first one that has the same picture; both `[items]`."""
    pictures = _first_of(_digests(table, columns)) if _may_share_pictures(table, columns) else np.arange(len(table))
    if columns.id is None:
        return pictures, pictures
    same = (pictures, _first_of(table[columns.id]))  # an id may be one of captions
    return components(len(table), (pair for each in same for pair in enumerate(each.tolist()))), pictures


def _may_share_pictures(table: Any, columns: Columns) -> bool:
    """Whether the same picture may be in several items: where each has one caption."""
    import datasets

    return columns.image is not None and columns.text is not None and isinstance(table.features[columns.text], datasets.Value)


def _digests(table: Any, columns: Columns) -> Iterator[str]:
    """Of every item what its picture is known by."""
    for number, held in enumerate(tracked(table[columns.image], len(table), "pictures")):
        if held is None:
            yield f"row {number}"
        else:
            yield blake2b(held["bytes"] or str(held["path"]).encode(), digest_size=16).hexdigest()


def _first_of(values: Any) -> np.ndarray:
    first: dict[Any, int] = {}
    return np.array([index if value is None else first.setdefault(value, index) for index, value in enumerate(values)], dtype=np.int64)


def _hold_out(table: Any, columns: Columns) -> np.ndarray:
    """[items] bool: a fifth of the things of every label, by the id that they have, or else by their place."""
    things, _ = _same(table, columns)
    ids = list(table[columns.id]) if columns.id is not None else range(len(table))
    labels = list(table[columns.label]) if columns.label is not None and not columns.many else [None] * len(table)
    of_label: dict[Any, list[int]] = defaultdict(list)
    for thing in np.unique(things).tolist():
        of_label[labels[thing]].append(thing)
    out = [thing for firsts in of_label.values() for thing in np.array(firsts)[held_out([str(ids[first]) for first in firsts])]]
    return np.isin(things, out)


# Read forward.


@dataclass(frozen=True)
class _Start:
    """number of a shard -> its items. `iter` takes all of a shard in any process; `__iter__` would share it among a loader's workers."""

    table: Any

    def __call__(self, number: int) -> Iterator[Mapping[str, Any]]:
        shard = self.table.shard(num_shards=self.table.num_shards, index=number)
        for batch in shard.iter(batch_size=_BATCH):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))


def _decoded(columns: Columns, name: str, item: Mapping[str, Any]) -> Row:  # by name, so that it travels to workers
    return columns.picture(item, name) | _words(columns, name, item)


def _words(columns: Columns, name: str, item: Mapping[str, Any]) -> Row:
    return columns.cells(item, 0, name)


def _streamed(data: str, name: str, splits: Sequence[Any], columns: Columns, told: tuple[int | None, int | None]) -> Data:
    if splits[1] is None:
        raise ValueError(f"data {data!r}: there is no eval split, and nothing is held out of a stream: give eval=, or no streaming=true")
    if columns.label is not None and columns.classes is None:
        raise ValueError(f"data {data!r}: {columns.label} is no ClassLabel, and its classes are not known before all is read")

    def split(table: Any, size: int | None, which: str) -> Split:
        start, number = _Start(table), table.num_shards
        names = [f"{name}, {which}, shard {index}" for index in range(number)]
        if size is None:
            sizes = [sum(1 for _ in start(index)) for index in tracked(range(number), number, f"count {which}")]
        else:
            sizes = [size // number + (index < size % number) for index in range(number)]
        where = f"{name}, {which}"
        reader, words = (
            Forward(names, tuple(sizes), start, partial(each, columns, where), counted=size is None) for each in (_decoded, _words)
        )
        return Split(sum(sizes), reader, columns.keys, cells=words, stretches=tuple(sizes))

    both = [split(table, size, which) for table, size, which in zip(splits, told, ("train", "eval"), strict=True)]
    about = f"{sum(map(len, both)):,} items that are read forward"
    return Data(name=name, train=both[0], eval=both[1], classes=columns.classes, about=about)

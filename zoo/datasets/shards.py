"""WebDataset's shards: tar files in which `0001.jpg`, `0001.txt`, `0001.cls` and `0001.json` are one sample.

    wds:DIR/train-{000000..000009}.tar,eval=DIR/val-{0..1}.tar
    wds:https://HOST/train-{000000..000009}.tar,eval=https://HOST/val-0.tar,size=10000,classes=10

Plain .tar files that lie here are looked through once, from header to header, after which every row is at hand: shuffled, split and resumed
like any other data. What is behind a URL or a pipe, or compressed, is read forward (`stream.py`).

Format: Aizman, Maltby and Breuel, "High Performance I/O For Large Scale Deep Learning", arXiv 2001.01858.
"""

import glob
import os
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from registry import nearest

from ..progress import tracked
from .data import Data, Row, Split
from .data_string import take_apart, whole
from .forward_shards import is_remote, read_forward
from .picture import decode_picture
from .samples import EXPECTED, Sample, name_of, number_of, samples
from .splits import held_out, sort_classes

_OPTIONS = {"eval": "val-{0..1}.tar", "size": "10000", "eval_size": "1000", "classes": "10"}


def read_shards(data: str) -> Data:
    """Rows `image`, and `text`, `label` or `labels` where the samples have them.

    Without `eval` about a fifth of the samples is held out by a hash of their names (of every label, if the shards lie here), all captions
    of a picture together. What is read forward is read once when it is opened, to count it, unless `size` says how many rows there are;
    then `eval` is needed, and `classes` for a classifier, whose labels are numbers from 0. A sample with several captions is a row of each;
    where it is read forward, of the first.

    Args:
        data: "wds:SHARDS", braces and * allowed, with the options `eval`, `size`, `eval_size` and `classes`.

    Raises:
        FileNotFoundError: there is no such shard.
        ValueError: no tar file, a sample that is none, a label that training does not have.
        ImportError: braces or remote shards, and the extra `wds` is not installed.
    """
    what, given = take_apart(data, _OPTIONS)
    here, there = _expanded(what), _expanded(given.get("eval", ""))
    if twice := sorted({*here} & {*there}):
        raise ValueError(f"data {data!r}: {twice[0]} is for training and for eval")
    options = "".join(f",{key}={_absolute(value) if key == 'eval' else value}" for key, value in given.items())
    name = f"wds:{_absolute(what)}{options}"
    if all(_at_hand(shard) for shard in (*here, *there)):
        if idle := [key for key in ("size", "eval_size", "classes") if key in given]:
            raise ValueError(f"data {data!r}: {idle[0]} is for shards that are read forward; these lie here and are counted")
        return open_shards(name, here, there)
    size, eval_size, classes = (whole(data, given, key) for key in ("size", "eval_size", "classes"))
    if size and not there:
        raise ValueError(f"data {data!r}: size spares the counting, and without it nothing can be held out: give eval=SHARDS as well")
    if classes and not size:
        raise ValueError(f"data {data!r}: classes goes with size; without it the labels are found by counting")
    return read_forward(name, here, there, size, eval_size, classes)


def runs_a_command(data: str) -> bool:
    """Whether opening the string would run a command of the shell: nothing that a file may ask for."""
    return data.startswith("wds:") and "pipe:" in data.lower()


def _expanded(pattern: str) -> list[str]:
    """The shards that a pattern names, in the order of their names."""
    if not pattern:
        return []
    patterns = [pattern]
    if "{" in pattern:
        try:
            from braceexpand import braceexpand
        except ImportError as error:
            raise ImportError("shards in braces need webdataset: pip install 'effnet-zoo[wds]'") from error
        patterns = list(braceexpand(pattern))
    shards: list[str] = []
    for each in patterns:
        if is_remote(each):
            shards.append(each)
            continue
        found = sorted(glob.glob(each)) if not os.path.exists(each) else [each]
        if not found:
            raise FileNotFoundError(f"{each}: no such shard{_hint(each)}")
        if os.path.isdir(found[0]):
            raise ValueError(f"{found[0]}: a folder, not a shard; expected {found[0].rstrip('/')}/*.tar")
        shards += [os.path.abspath(file) for file in found]
    return shards


def _hint(file: str) -> str:
    folder, name = os.path.split(file)
    if not os.path.isdir(folder or "."):
        return f"; there is no folder {folder}"
    tars = sorted(each for each in os.listdir(folder or ".") if ".tar" in each)
    return f"; {nearest(name, tars)}" if tars else f"; there is no .tar in {folder or 'the current folder'}"


def _absolute(pattern: str) -> str:
    return pattern if is_remote(pattern) else os.path.abspath(pattern)


def _at_hand(shard: str) -> bool:
    return not is_remote(shard) and shard.endswith(".tar")


# Shards that lie here: where each picture begins is known, and every row at hand.


@dataclass
class _Found:
    """What the shards of one side hold; `places` is of each picture its shard, where it begins, and its bytes."""

    samples: list[Sample] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)

    def take(self, chosen: Iterable[int]) -> "_Found":
        which = list(chosen)
        return _Found([self.samples[each] for each in which], [self.places[each] for each in which])


def _look_through(shards: Sequence[str], first: int) -> _Found:
    found = _Found()
    for number, shard in enumerate(tracked(shards, len(shards), "shards"), start=first):
        try:
            with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for key, picture, words in samples(tar, lambda member: member):
                    told = {name: tar.extractfile(member).read() for name, member in words.items()}  # type: ignore[union-attr]  # a file
                    found.samples.append(Sample.of(key, told))
                    found.places.append((number, picture.offset_data, picture.size))
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(f"{shard}: {error}") from error
    return found


@dataclass(frozen=True)
class _Indexed:
    """Opens the shard for each picture: nothing that a fork or a worker could share, and the system keeps what it needs."""

    shards: tuple[str, ...]
    places: np.ndarray  # [samples, 3] int64
    keys: tuple[str, ...]  # [samples]
    texts: tuple[str, ...]  # [rows], "": none
    labels: tuple[int | tuple[int, ...] | None, ...]  # [samples]
    sample: np.ndarray  # [rows], which sample
    key: str  # "label" or "labels"

    def __call__(self, index: int) -> Row:
        shard, first, size = self.places[self.sample[index]]
        with open(self.shards[shard], "rb") as file:
            file.seek(first)
            content = file.read(size)
        return {"image": decode_picture(content, self.where(index)), **self.cells(index)}

    def cells(self, index: int) -> Row:
        label = self.labels[self.sample[index]]
        row: Row = {} if label is None else {self.key: label}
        return row | {"text": self.texts[index]} if self.texts[index] else row

    def where(self, index: int) -> str:
        return f"{self.shards[self.places[self.sample[index]][0]]}, {self.keys[self.sample[index]]}"


def open_shards(name: str, here: Sequence[str], there: Sequence[str]) -> Data:
    """Plain .tar files for training and for eval; without the latter a fifth of the former is held out.

    Raises:
        ValueError: as `read_shards`.
    """
    train = _look_through(here, 0)
    if not train.samples:
        raise ValueError(f"{here[0]}: no sample with a picture; {EXPECTED}")
    if there:
        held = _look_through(there, len(here))
        if not held.samples:
            raise ValueError(f"{there[0]}: no sample with a picture; {EXPECTED}")
    else:
        out = _hold_out(here, train)
        train, held = train.take(np.flatnonzero(~out)), train.take(np.flatnonzero(out))
    every = [*train.samples, *held.samples]
    many = any(sample.labels is not None for sample in every)
    classes = _classes(train.samples, (*here, *there), held, many, strict=bool(there))
    number = {label: index for index, label in enumerate(classes)}

    def split(found: _Found) -> Split:
        captions = [sample.texts or ("",) for sample in found.samples]
        sample = np.repeat(np.arange(len(captions)), [len(each) for each in captions])
        reader = _Indexed(
            shards=(*here, *there),
            places=np.array(found.places, dtype=np.int64).reshape(-1, 3),
            keys=tuple(each.key for each in found.samples),
            texts=tuple(text for each in captions for text in each),
            labels=tuple(number_of(each, number, many) for each in found.samples),
            sample=sample,
            key="labels" if many else "label",
        )
        labelled = any(each is not None for each in reader.labels)
        columns = ("image", *([reader.key] if labelled else []), *(["text"] if any(reader.texts) else []))
        return Split(len(sample), reader, columns, ids=sample, pictures=sample, cells=reader.cells, where=reader.where)

    about = f"{len(every):,} pictures in {len(here) + len(there):,} shards"
    return Data(name=name, train=split(train), eval=split(held), classes=classes or None, about=about)


def _hold_out(shards: Sequence[str], found: _Found) -> np.ndarray:
    """[samples] bool; by names that are the same wherever the shards lie, and of every label some."""
    of_label: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (sample, (shard, _, _)) in enumerate(zip(found.samples, found.places, strict=True)):
        of_label[sample.label][name_of(shards[shard], sample.key)].append(index)
    out = np.zeros(len(found.samples), dtype=bool)
    for names in of_label.values():
        for indices, is_out in zip(names.values(), held_out(list(names)), strict=True):
            out[indices] = is_out
    return out


def _classes(train: Sequence[Sample], shards: Sequence[str], held: _Found, many: bool, strict: bool) -> tuple[str, ...]:
    def labels(samples: Sequence[Sample]) -> set[str]:
        return {label for each in samples for label in ((each.labels or ()) if many else (each.label,)) if label}

    learnt = labels(train)
    if not strict:
        return sort_classes(learnt | labels(held.samples))
    for sample, (shard, _, _) in zip(held.samples, held.places, strict=True):
        if unknown := sorted(labels([sample]) - learnt):
            near = nearest(unknown[0], sorted(learnt)) if learnt else "none of them has a label"
            raise ValueError(f"{shards[shard]}, {sample.key}: the label {unknown[0]!r} is for eval and no training sample has it; {near}")
    return sort_classes(learnt)

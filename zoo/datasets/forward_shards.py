"""Shards that can only be read forward: behind a URL or a pipe (opened by webdataset), or compressed.

They are counted by reading them once, unless their size is told; then they are taken to be of one size, and where one has fewer rows than
that it begins again.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry import nearest

from ..progress import tracked
from .data import Data, Row, Split
from .picture import decode_picture
from .samples import EXPECTED, Sample, name_of, number_of, samples
from .splits import HELD_OUT, chance_of, sort_classes
from .stream import Forward

_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def is_remote(shard: str) -> bool:
    """Whether it is a URL or a pipe, and no path."""
    return _REMOTE.match(shard) is not None


@dataclass(frozen=True)
class _Encoded:
    picture: bytes
    sample: Sample
    shard: str


@dataclass(frozen=True)
class _Start:
    """number of a shard -> its samples, of one side if there are two in it."""

    shards: tuple[str, ...]
    side: bool | None = None

    def __call__(self, number: int) -> Iterator[_Encoded]:
        shard = self.shards[number]
        try:
            with _opened(shard) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
                for key, picture, words in samples(tar, lambda member: tar.extractfile(member).read()):  # type: ignore[union-attr]  # a file
                    if self.side is None or (chance_of(name_of(shard, key)) < HELD_OUT) == self.side:
                        yield _Encoded(picture, Sample.of(key, words), shard)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise ValueError(f"{shard}: {error}") from error


def _opened(shard: str) -> Any:
    if not is_remote(shard):
        return open(shard, "rb")
    try:
        from webdataset import gopen
    except ImportError as error:
        raise ImportError("shards behind a URL or a pipe need webdataset: pip install 'effnet-zoo[wds]'") from error
    return gopen(shard)


@dataclass(frozen=True)
class _Decode:
    number: dict[str, int]
    many: bool
    pictures: bool = True

    def __call__(self, encoded: _Encoded) -> Row:
        sample = encoded.sample
        where = f"{encoded.shard}, {sample.key}"
        try:
            label = number_of(sample, self.number, self.many)
        except KeyError as error:
            raise ValueError(f"{where}: the label {error} is not among the classes") from error
        if sample.label and label is None:
            known = nearest(sample.label, list(self.number)) if self.number else "there are no classes"
            raise ValueError(f"{where}: the label {sample.label!r} is not among the classes; {known}")
        row: Row = {"image": decode_picture(encoded.picture, where)} if self.pictures else {}
        if label is not None:
            row["labels" if self.many else "label"] = label
        return row | {"text": sample.texts[0]} if sample.texts else row


@dataclass
class _Counted:
    sizes: list[int] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    many: bool = False
    columns: dict[str, None] = field(default_factory=lambda: {"image": None})

    def add(self, sample: Sample) -> None:
        self.many |= sample.labels is not None
        self.labels.update((sample.label,) if sample.label else sample.labels or ())
        said = {"label": bool(sample.label), "labels": sample.labels is not None, "text": bool(sample.texts)}
        self.columns.update(dict.fromkeys(name for name, there in said.items() if there))


def _count(start: _Start) -> _Counted:
    counted = _Counted()
    for number in tracked(range(len(start.shards)), len(start.shards), "count the shards"):
        size = 0
        for encoded in start(number):
            size += 1
            counted.add(encoded.sample)
        counted.sizes.append(size)
    return counted


def _guessed(start: _Start, size: int, classes: int | None) -> _Counted:
    """All shards of one size, as is usual; what the rows have is that of the first."""
    number = len(start.shards)
    counted = _Counted([size // number + (each < size % number) for each in range(number)])
    for encoded in start(0):
        counted.add(encoded.sample)
        break
    counted.labels = {str(label) for label in range(classes or 0)}
    return counted


def read_forward(
    name: str, here: Sequence[str], there: Sequence[str], size: int | None, eval_size: int | None, classes: int | None
) -> Data:
    starts = _Start(tuple(here), None if there else False), _Start(tuple(there or here), None if there else True)
    counted = [_guessed(start, guess, classes) if guess else _count(start) for start, guess in zip(starts, (size, eval_size), strict=True)]
    for each, shards in zip(counted, (here, there or here), strict=True):
        if not sum(each.sizes):
            raise ValueError(f"{shards[0]}: no sample with a picture; {EXPECTED}")
    train, held = counted
    many = train.many or held.many
    learnt = train.labels if there else train.labels | held.labels
    if unknown := sorted(held.labels - learnt):
        raise ValueError(f"{there[0]}: the label {unknown[0]!r} is for eval and no training sample has it")
    names = sort_classes(learnt)

    def split(start: _Start, found: _Counted, guess: int | None) -> Split:
        decode = _Decode({label: index for index, label in enumerate(names)}, many)
        reader = Forward(start.shards, tuple(found.sizes), start, decode, counted=not guess)
        cells = Forward(start.shards, tuple(found.sizes), start, _Decode(decode.number, many, pictures=False), counted=not guess)
        return Split(sum(found.sizes), reader, tuple(found.columns), cells=cells, stretches=tuple(found.sizes))

    rows = sum(train.sizes), sum(held.sizes)
    about = f"{sum(rows):,} pictures in {len({*here, *there}):,} shards that are read forward"
    return Data(name=name, train=split(starts[0], train, size), eval=split(starts[1], held, eval_size), classes=names or None, about=about)

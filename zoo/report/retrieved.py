"""What a joint embedding finds: for a few rows the nearest of the other modality, right and wrong ones, heard while it is evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..datasets import BrokenPicture, Split, read_picture
from ..deploy.index import nearest_rows
from ..train import Align
from ..train.modalities import raw_value
from .thumbnail import thumbnail

NEAREST = 5
EACH = 3  # queries that were answered rightly, and wrongly
_LONG = 160  # characters of a text


@dataclass(frozen=True)
class Item:
    """A picture as a data: URI, or words, or both: what a row shows of a modality.

    Args:
        right: it belongs to what was asked.
        score: the cosine.
    """

    picture: str
    words: str
    right: bool = False
    score: float = 1.0


@dataclass(frozen=True)
class Example:
    """`rank` is the place of the best right answer among `gallery`, from 1."""

    query: Item
    found: tuple[Item, ...]
    rank: int
    gallery: int


@dataclass(frozen=True)
class Retrieved:
    """From one modality to the other: how many of how many queries had a right answer first, and examples of either kind."""

    one: str
    other: str
    hits: int
    queries: int
    right: tuple[Example, ...]
    wrong: tuple[Example, ...]


class Embeddings:
    """`zoo.train.evaluate(..., listen=Embeddings())`: keeps what the evaluation embeds."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Tensor]] = {}

    def __call__(self, outputs: Mapping[str, Tensor]) -> None:
        for name, each in outputs.items():
            self._kept.setdefault(name, []).append(each.float().cpu() if each.is_floating_point() else each.cpu())

    def of(self, modality: str, split: Split) -> tuple[Tensor, Tensor]:
        """Embeddings `[N, D]` and the rows that they belong to; of rows with the same picture the first."""
        rows = torch.cat(self._kept[f"index.{modality}"])
        embedded = torch.cat(self._kept[modality])
        if modality == "image":
            first: dict[int, int] = {}
            for place, thing in enumerate(split.pictures[rows.numpy()].tolist()):
                first.setdefault(thing, place)
            places = torch.tensor(list(first.values()), dtype=torch.int64)
            rows, embedded = rows[places], embedded[places]
        return embedded, rows

    def __contains__(self, modality: str) -> bool:
        return modality in self._kept


def words_of(task: Align, split: Split, row: int, modality: str) -> str:
    """What stands in a row of a modality that is no picture, in one line."""
    raw = split.cells(row) if split.cells is not None else split[row]
    value: Any = raw_value(raw, modality, task.tables.get(modality, ()))
    text = " ".join(str("" if value is None else value).split())
    return text if len(text) <= _LONG else f"{text[:_LONG].rstrip()}…"


def _item(task: Align, split: Split, row: int, modality: str, **more: Any) -> Item:
    picture = ""
    if modality in task.preprocess:
        try:
            value = split[row][modality]
            picture = thumbnail(read_picture(value) if isinstance(value, str | Path) else value)
        except (BrokenPicture, OSError, KeyError):
            pass
        also = "text" if "text" in split.columns else ""
        return Item(picture, words_of(task, split, row, also) if also else split.place(row), **more)
    return Item(picture, words_of(task, split, row, modality), **more)


def retrieved(task: Align, embeddings: Embeddings, split: Split) -> list[Retrieved]:
    """Examples both ways of every pair that the run has learned and the split has rows of."""
    found = []
    for one, other in task.joint.pairs:
        if one in embeddings and other in embeddings:
            found += [_way(task, embeddings, split, one, other), _way(task, embeddings, split, other, one)]
    return found


def _way(task: Align, embeddings: Embeddings, split: Split, one: str, other: str) -> Retrieved:
    ids = torch.from_numpy(split.ids)
    (queries, asked), (gallery, rows) = embeddings.of(one, split), embeddings.of(other, split)
    answered = torch.isin(ids[asked], ids[rows])
    queries, asked = queries[answered], asked[answered]
    scores, nearest = nearest_rows(queries, gallery, NEAREST)
    right = ids[rows[nearest]] == ids[asked][:, None]

    def examples(places: Sequence[int]) -> tuple[Example, ...]:
        made = []
        for place in places:
            items = (
                _item(task, split, int(rows[near]), other, right=bool(right[place, number]), score=float(scores[place, number]))
                for number, near in enumerate(nearest[place].tolist())
            )
            cosines = gallery @ queries[place]
            rank = 1 + int((cosines > cosines[ids[rows] == ids[asked[place]]].max()).sum())
            made.append(Example(_item(task, split, int(asked[place]), one), tuple(items), rank, len(rows)))
        return tuple(made)

    sure = scores[:, 0].argsort(descending=True, stable=True)
    hit = right[sure, 0]
    return Retrieved(*(one, other, int(hit.sum()), len(queries)), examples(sure[hit][:EACH].tolist()), examples(sure[~hit][:EACH].tolist()))

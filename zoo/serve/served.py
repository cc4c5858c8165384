"""What a run can do for a request: a classifier names classes, a joint embedding embeds and searches.

Both have `prepare` (a request's content to a row of a batch), `compute` (rows to outputs; the batcher calls it), and say what they read and
find; a classifier finds nothing.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..datasets import Split
from ..deploy import Index, named, nearest_items
from ..train import Align, Classify
from ..train.engine import Engine
from .attention import Look, look

Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A row that was found.

    Args:
        split, row: which.
        score: the cosine.
        words: its text, or what else says what it is; None: nothing does.
        picture: whether it has one.
    """

    split: str
    row: int
    score: float
    words: str | None
    picture: bool


class Classifier:
    """A classifier, its own or of an exported folder.

    Args:
        task: what was trained.
        engine: where it computes.
        name: of the run.
    """

    kind = "classifier"

    def __init__(self, task: Classify, engine: Engine, name: str):
        engine.place(task)
        task.eval()
        self.task, self.name, self._engine = task, name, engine
        self.reads: tuple[str, ...] = ("image",)
        self.finds: tuple[str, ...] = ()
        self.size, self.examples = 0, ()
        self.classes = tuple(task.classes)
        self._transform = task.of_pictures().transform(training=False)
        self._alone = threading.Lock()  # maps are read off the network while it runs: nobody else runs it then
        blank = Image.new("RGB", (32, 32))
        self.look(self.prepare("image", blank), blank, 0)  # what is imported at first use would make the first who asks wait

    def prepare(self, modality: str, value: Any) -> Row:
        return {modality: self._transform(value)}

    @torch.no_grad()
    def compute(self, rows: Sequence[Row]) -> Sequence[Tensor]:
        """Logits, `[classes]` each."""
        with self._alone:
            pixels = self._engine.to_device({"image": torch.stack([row["image"] for row in rows])})["image"]
            return list(self.task.trainable_module(pixels).float().cpu())

    def likely(self, logits: Tensor, k: int) -> list[tuple[str, float]]:
        """(class, probability) of the k likeliest, best first."""
        return list(named(logits.numpy(), self.classes, self.task.multi_label).items())[:k]

    def look(self, row: Row, picture: Image.Image, target: int) -> list[Look]:
        """Where the network looks for a class."""
        with self._alone:
            return look(self.task, self._engine, row["image"], picture, target)


class Searcher:
    """A joint embedding, and rows to search in.

    Args:
        task: what was trained.
        engine: where it computes.
        name: of the run.
        indices: split -> its index.
        rows: split -> its rows, opened when a picture is asked for.
        labels: names of the labels of rows, if they have any.
    """

    kind = "joint"

    def __init__(
        self,
        task: Align,
        engine: Engine,
        name: str,
        indices: Mapping[str, Index],
        rows: Callable[[str], Split],
        labels: Sequence[str] | None = None,
    ):
        engine.place(task)
        task.eval()
        self.task, self.name, self._engine = task, name, engine
        self.indices, self._rows, self._labels = dict(indices), rows, labels
        self.reads = tuple(each for each in ("text", "image") if each in task.columns and self._is_read(each))
        self.finds = tuple(each for each in task.columns if any(each in index.embeddings for index in self.indices.values()))
        self.size = sum(len(index.shown) for index in self.indices.values())  # rows that are searched
        self.classes: tuple[str, ...] = ()
        self.examples = self._some_texts()
        self._prepare = task.prepare(False)

    def _is_read(self, modality: str) -> bool:
        reads = "image" if modality in self.task.preprocess else getattr(self.task.joint.towers[modality], "reads", "text")
        return reads == modality

    def prepare(self, modality: str, value: Any) -> Row:
        return self._prepare({modality: value})

    @torch.no_grad()
    def compute(self, rows: Sequence[Row]) -> Sequence[Tensor]:
        """Embeddings, `[D]` each, of rows that each hold one modality."""
        batch = self._engine.to_device(self.task.collate([{**row, "id": 0, "index": number} for number, row in enumerate(rows)]))
        found: dict[int, Tensor] = {}
        for modality, embeddings in self.task.embed(batch).items():
            found |= dict(zip(batch[f"rows.{modality}"].tolist(), embeddings.float().cpu(), strict=True))
        return [found[number] for number in range(len(rows))]

    def search(self, embedding: Tensor, to: str, k: int) -> list[Found]:
        """The k nearest different things of a modality."""
        near = nearest_items(self.indices, to, embedding[None], k)
        return [Found(split, row, score, self._words(to, shown), self._has_picture(split, row)) for split, row, score, shown in near]

    def _words(self, modality: str, shown: Mapping[str, Any]) -> str | None:
        for name in (modality, "text"):  # not the path of a file: a stranger need not know where things are
            if name != "image" and isinstance(value := shown.get(name), str | int | float | dict):
                return value if isinstance(value, str) else str(value)
        label = shown.get("label")
        known = isinstance(label, int) and self._labels is not None and 0 <= label < len(self._labels)
        return self._labels[label] if known and self._labels and isinstance(label, int) else None

    def _has_picture(self, split: str, row: int) -> bool:
        return "image" in self.finds and 0 <= row < len(self.indices[split].shown)

    def picture(self, split: str, row: int) -> Image.Image | None:
        """The picture of a row; None where there is no such row, or none in it."""
        if split not in self.indices or not self._has_picture(split, row):
            return None
        found = self._rows(split)[row].get("image")
        return found if isinstance(found, Image.Image) else None

    def _some_texts(self, most: int = 5) -> tuple[str, ...]:
        """A few texts out of the rows, far apart from each other, to begin with."""
        texts = (text for index in self.indices.values() for shown in index.shown if isinstance(text := shown.get("text"), str))
        short = [text for text in dict.fromkeys(texts) if 0 < len(text) <= 40]
        return tuple(short[len(short) // (2 * most) :: max(1, len(short) // most)][:most])


Served = Classifier | Searcher

"""Where a classifier is wrong and sure of it: heard while it is evaluated, so that nothing is computed twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..datasets import BrokenPicture, Split
from .thumbnail import thumbnail

MOST = 12


@dataclass(frozen=True)
class Guess:
    """A row of the evaluation, and what the network made of it.

    Args:
        row: of the split.
        true, predicted: classes; of several labels all of them, joined.
        confidence: of the prediction, in [0, 1].
        picture: as a data: URI.
        place: what the row is called.
    """

    row: int
    true: str
    predicted: str
    confidence: float
    picture: str
    place: str


class Listener:
    """`zoo.train.evaluate(..., listen=Listener(...))`: keeps of each row its prediction, its confidence, and how wrong it was.

    Args:
        multi_label: a row has any number of labels: an answer of a half or more is a yes, and one wrong answer makes a mistake.
    """

    def __init__(self, multi_label: bool):
        self.multi_label = multi_label
        self._kept: list[dict[str, Tensor]] = []

    def __call__(self, outputs: Mapping[str, Tensor]) -> None:
        logits, label = outputs["logits"].float().cpu(), outputs["label"].cpu()
        index = outputs["index"].cpu()
        if self.multi_label:
            probability, truth = logits.sigmoid(), label >= 0.5
            answers, sure = probability >= 0.5, (probability - truth.float()).abs().max(1).values
            self._kept.append({"index": index, "wrong": (answers != truth).any(1), "confidence": sure, "answers": answers, "label": truth})
        else:
            confidence, predicted = logits.softmax(1).max(1)
            self._kept.append({"index": index, "wrong": predicted != label, "confidence": confidence, "answers": predicted, "label": label})

    @property
    def kept(self) -> dict[str, Tensor]:
        """`index`, `wrong`, `confidence` `[N]`; `answers` and `label` `[N]` classes, or `[N, C]` booleans."""
        return {name: torch.cat([each[name] for each in self._kept]) for name in self._kept[0]} if self._kept else {}

    def chosen(self, wrong: bool, most: int = MOST, surest: bool = True) -> Tensor:
        """Places in `kept` of what is wrong, or right, the surest or least sure first."""
        kept = self.kept
        if not kept:
            return torch.zeros(0, dtype=torch.int64)
        places = (kept["wrong"] == wrong).nonzero().squeeze(1)
        order = kept["confidence"][places].nan_to_num(-1.0).argsort(descending=surest, stable=True)
        return places[order][:most]

    def guesses(self, places: Tensor, split: Split, classes: Sequence[str]) -> list[Guess]:
        """With their pictures; a picture that cannot be read is left out."""
        kept, found = self.kept, []

        def names(value: Tensor) -> str:
            if not self.multi_label:
                return classes[int(value)]
            return ", ".join(name for name, there in zip(classes, value.tolist(), strict=True) if there) or "none"

        for place in places.tolist():
            row = int(kept["index"][place])
            try:
                picture = thumbnail(split[row]["image"])
            except (BrokenPicture, OSError, KeyError):
                continue
            true, predicted = names(kept["label"][place]), names(kept["answers"][place])
            found.append(Guess(row, true, predicted, float(kept["confidence"][place]), picture, split.place(row)))
        return found

"""Classification: pictures to classes, cross-entropy with label smoothing, optionally mixup and cutmix, all timm's."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import create_classification_loss
from torch import nn

from ..backbones.weights import save_model
from ..datasets.data import Row, Split
from ..evaluate.classification import ClassificationMeter
from .loader import Batch
from .preprocess import Preprocess
from .task import Task


class _PrepareRow:
    def __init__(self, transform: Callable, classes: int):
        self.transform, self.classes = transform, classes

    def __call__(self, row: Row) -> Row:
        for needed in ("label", "image"):
            if needed not in row:
                raise ValueError(f"a row has no {needed}; a classifier needs one in every row")
        if not 0 <= row["label"] < self.classes:
            raise ValueError(f"label {row['label']}: the model has {self.classes} classes, expected 0 to {self.classes - 1}")
        return {"image": self.transform(row["image"]), "label": row["label"]}


def _collate(rows: Sequence[Row]) -> Batch:
    batch: Batch = {"image": torch.stack([row["image"] for row in rows])}
    for key in ("label", "id", "index"):
        batch[key] = torch.tensor([row[key] for row in rows])
    return batch


class Classify(Task):
    """A timm classifier and what it is trained for.

    Args:
        model: `[B, C, H, W]` -> logits `[B, num_classes]`.
        name: of the model, as it is written into the run.
        preprocess: pictures to tensors.
        classes: the names of the classes; their number must be the model's.
        smoothing: of the labels.
        mixup, cutmix: alpha of timm's Mixup; 0 leaves it out.
        freeze_bn: batch norms keep their statistics.
        options: how the model was made, as JSON: it is written into the run.

    Raises:
        ValueError: the model has another number of classes than the data.
    """

    kind = "classify"
    columns = ("image", "label")
    default_batch_size = 32
    default_lr = 2e-3
    metric = "top1"

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        preprocess: Preprocess,
        classes: Sequence[str],
        smoothing: float = 0.1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        freeze_bn: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__(model, freeze_bn=freeze_bn)
        self.options = dict(options or {})
        if model.num_classes != len(classes):
            raise ValueError(f"num_classes: the model has {model.num_classes}, the data has {len(classes)} ({', '.join(classes[:5])}, ...)")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing: expected a number in [0, 1), got {smoothing}")
        for key, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha < math.inf:
                raise ValueError(f"{key}: expected an alpha of 0 or more, got {alpha}")
        self.name, self.preprocess, self.classes = name, preprocess, tuple(classes)
        self.smoothing, self.mixup, self.cutmix = smoothing, mixup, cutmix
        mixes = mixup > 0 or cutmix > 0
        self._mix = Mixup(mixup, cutmix, label_smoothing=smoothing, num_classes=len(classes)) if mixes else None
        self.criterion = create_classification_loss(**({"soft_targets": True} if mixes else {"smoothing": smoothing}))

    def of_pictures(self) -> Preprocess:
        return self.preprocess

    def prepare(self, training: bool) -> Callable[[Row], Row]:
        return _PrepareRow(self.preprocess.transform(training), len(self.classes))

    def collate(self, rows: Sequence[Row]) -> Batch:
        return _collate(rows)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        output = self.trainable_module(input)
        return {"loss": self.criterion(output, target), "output": output}

    def batch_loss(self, batch: Batch) -> torch.Tensor:
        image, label = batch["image"], batch["label"]
        if self._mix is not None and len(image) > 1:
            even = len(image) // 2 * 2  # Mixup pairs a batch with its mirror image
            image, label = self._mix(image[:even], label[:even])
        elif self._mix is not None:
            label = nn.functional.one_hot(label, len(self.classes)).float()
        return self(image, label)["loss"]

    def outputs(self, batch: Batch, model: nn.Module) -> dict[str, torch.Tensor]:
        return {"logits": model(batch["image"]), "label": batch["label"]}

    def measure(self, outputs: Iterable[dict[str, torch.Tensor]], split: Split) -> dict[str, Any]:
        meter = ClassificationMeter()
        for each in outputs:
            meter.update(each["logits"], each["label"])
        metrics = meter.compute()
        return {**metrics, "confusion": metrics["confusion"].tolist()}

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.kind,
            "model": self.name,
            "img_size": self.preprocess.input_size[-1],
            "augment": self.preprocess.augment,
            "smoothing": self.smoothing,
            "mixup": self.mixup,
            "cutmix": self.cutmix,
            "freeze_bn": self.freeze_bn,
            **self.options,
        }

    def save(self, out: Path, model: nn.Module, run: dict[str, Any]) -> None:
        save_model(model, out, label_names=list(self.classes), data_config=self.preprocess.data_config(), extra={"zoo": run})

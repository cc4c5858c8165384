"""Classification: pictures to classes, cross-entropy with label smoothing, optionally mixup and cutmix, all timm's.

Where a row may have several labels, or none, each class is a question of its own: binary cross-entropy, and other numbers.
"""

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
from ..evaluate.multi_label import MultiLabelMeter
from .freeze import Frozen
from .loader import Batch
from .preprocess import Preprocess
from .task import Task


class _PrepareRow:
    def __init__(self, transform: Callable, classes: int, key: str):
        self.transform, self.classes, self.key = transform, classes, key

    def __call__(self, row: Row) -> Row:
        for needed in (self.key, "image"):
            if needed not in row:
                raise ValueError(f"a row has no {needed}; a classifier needs one in every row")
        for label in row["labels"] if self.key == "labels" else (row["label"],):
            if not 0 <= label < self.classes:
                raise ValueError(f"label {label}: the model has {self.classes} classes, expected 0 to {self.classes - 1}")
        return {"image": self.transform(row["image"]), "label": self._many_hot(row["labels"]) if self.key == "labels" else row["label"]}

    def _many_hot(self, labels: Sequence[int]) -> list[float]:
        return [float(label in labels) for label in range(self.classes)]


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
        multi_label: a row has `labels`, any number of them, and not one `label`; smoothing moves each answer towards a half.
        freeze: parts that do not learn: "trunk", "head", names of modules such as "stem" and "blocks.0-3".
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
        multi_label: bool = False,
        freeze: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__(model, freeze_bn=freeze_bn)
        self.options = dict(options or {})
        self.frozen = Frozen(model, freeze) if freeze else None
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
        mixed = {"label_smoothing": smoothing, "num_classes": len(classes), "multi_label": multi_label}
        self._mix = Mixup(mixup, cutmix, **mixed) if mixes else None
        self.criterion = create_classification_loss(
            multi_label=multi_label, **({"soft_targets": True} if mixes else {"smoothing": smoothing})
        )
        self.multi_label = multi_label
        if multi_label:
            self.columns, self.metric = ("image", "labels"), "mAP"

    def of_pictures(self) -> Preprocess:
        return self.preprocess

    def prepare(self, training: bool) -> Callable[[Row], Row]:
        return _PrepareRow(self.preprocess.transform(training), len(self.classes), self.columns[1])

    def collate(self, rows: Sequence[Row]) -> Batch:
        return _collate(rows)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        output = self.trainable_module(input)
        return {"loss": self.criterion(output, target), "output": output}

    def batch_loss(self, batch: Batch) -> torch.Tensor:
        image, label = batch["image"], batch["label"]
        if self._mix is not None:
            rows = len(image)
            if rows % 2:  # Mixup pairs a batch with its mirror image: the last row twice
                image, label = torch.cat([image, image[-1:]]), torch.cat([label, label[-1:]])
            image, label = (each[:rows] for each in self._mix(image, label))
        return self(image, label)["loss"]

    def outputs(self, batch: Batch, model: nn.Module) -> dict[str, torch.Tensor]:
        return {"logits": model(batch["image"]), "label": batch["label"], "index": batch["index"]}

    def measure(self, outputs: Iterable[dict[str, torch.Tensor]], split: Split) -> dict[str, Any]:
        if self.multi_label:
            return self._several(outputs)
        meter = ClassificationMeter()
        for each in outputs:
            meter.update(each["logits"], each["label"])
        metrics = meter.compute()
        return {**metrics, "confusion": metrics["confusion"].tolist()}

    def _several(self, outputs: Iterable[dict[str, torch.Tensor]]) -> dict[str, Any]:
        meter = MultiLabelMeter()
        for each in outputs:
            meter.update(each["logits"], each["label"])
        metrics = meter.compute()
        of_class = dict(zip(self.classes, metrics.pop("AP").tolist(), strict=True))
        left_out = [name for name, value in of_class.items() if math.isnan(value)]
        return {**metrics, "AP": [None if name in left_out else value for name, value in of_class.items()], "without_positives": left_out}

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
            **({"multi_label": True} if self.multi_label else {}),
            "freeze": list(self.frozen.parts) if self.frozen else None,
            **self.options,
        }

    def save(self, out: Path, model: nn.Module, run: dict[str, Any]) -> None:
        save_model(model, out, label_names=list(self.classes), data_config=self.preprocess.data_config(), extra={"zoo": run})

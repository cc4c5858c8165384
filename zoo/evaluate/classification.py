"""Accuracy, loss and the confusion matrix of a classifier, counted batch by batch.

Loss and top-k are timm's own count (`timm.task.ClassificationEvaluator`: exact integer counts, the loss summed in float64), so that numbers
are those of timm's `validate.py`. The confusion matrix says what the mistakes are; its diagonal is the top-1 count.
"""

from typing import Any

import torch
from timm.task import ClassificationEvaluator
from torch import Tensor


class ClassificationMeter:
    """`meter.update(logits, target)` for each batch, then `meter.compute()`.

    Raises:
        ValueError: shapes that are not `[B, C]` and `[B]`, C changes, a target outside [0, C), or nothing was counted.
    """

    def __init__(self) -> None:
        self._evaluator: ClassificationEvaluator | None = None
        self._confusion = torch.zeros(0, 0, dtype=torch.int64)

    @torch.no_grad()
    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: logits `[B, C]`, true classes `[B]`."""
        if logits.ndim != 2 or target.shape != logits.shape[:1]:
            raise ValueError(f"expected logits [B, C] and targets [B], got {list(logits.shape)} and {list(target.shape)}")
        if not len(target):
            return
        classes = logits.shape[1]
        if self._evaluator is None:
            self._evaluator = ClassificationEvaluator(logits.device)
            self._confusion = torch.zeros(classes, classes, dtype=torch.int64, device=logits.device)
        if classes != len(self._confusion):
            raise ValueError(f"logits for {classes} classes after logits for {len(self._confusion)}")
        low, high = int(target.min()), int(target.max())
        if low < 0 or high >= classes:
            raise ValueError(f"target {low if low < 0 else high} does not fit logits for {classes} classes")
        self._evaluator.update(logits, target)
        predicted = logits.float().topk(min(5, classes)).indices[:, 0]  # as timm does, so that ties fall the same way
        self._confusion += torch.bincount(target * classes + predicted, minlength=classes**2).view(classes, classes)

    def compute(self) -> dict[str, Any]:
        """The metrics of everything counted.

        Returns:
            `loss`, `top1` and `top5` in percent (no `top5` for five classes or fewer, where it is 100 for anything), and `confusion`:
            `[C, C]` counts, a row a true class, a column a predicted one.
        """
        if self._evaluator is None:
            raise ValueError("nothing was counted: no batch held a row")
        metrics: dict[str, Any] = dict(self._evaluator.compute())
        if len(self._confusion) <= 5:
            del metrics["top5"]
        return {**metrics, "confusion": self._confusion.cpu()}

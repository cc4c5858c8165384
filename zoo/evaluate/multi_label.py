"""What a classifier is worth whose rows have several labels, or none: average precision and F1, class by class.

    AP = sum over the ranks of (R_n - R_{n-1}) P_n        precision and recall at the n-th different score, without interpolation

That is scikit-learn's `average_precision_score`; mAP is its mean over the classes. F1 asks each class at a probability of one half. A class
that no row has says nothing about the model: it is left out of the means, and named.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """In [0, 1] for every class, NaN where it has no positive row: `[C]` float64.

    Args:
        scores: `[N, C]`, larger where the class is likelier.
        positive: `[N, C]` bool.
    """
    found = torch.full((scores.shape[1],), torch.nan, dtype=torch.float64)
    for number, (score, right) in enumerate(zip(scores.T.cpu(), positive.T.cpu(), strict=True)):
        if not right.any():
            continue
        score, order = score.sort(descending=True, stable=True)
        hits = right[order].double().cumsum(0)
        last = torch.cat([score[1:] != score[:-1], torch.ones(1, dtype=torch.bool)])  # of rows with one score, which cannot be told apart
        hits, ranks = hits[last], torch.arange(1, len(score) + 1)[last]
        found[number] = (hits.diff(prepend=hits.new_zeros(1)) * hits / ranks).sum() / hits[-1]
    return found


class MultiLabelMeter:
    """`meter.update(logits, target)` for each batch, then `meter.compute()`.

    Raises:
        ValueError: shapes that are not both `[B, C]`, C changes, targets that are not 0 and 1, or nothing was counted.
    """

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    @torch.no_grad()
    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: logits `[B, C]`, target `[B, C]` of 0 and 1."""
        if logits.ndim != 2 or target.shape != logits.shape:
            raise ValueError(f"expected logits and targets [B, C], got {list(logits.shape)} and {list(target.shape)}")
        if self._logits and logits.shape[1] != self._logits[0].shape[1]:
            raise ValueError(f"logits for {logits.shape[1]} classes after logits for {self._logits[0].shape[1]}")
        if not ((target == 0) | (target == 1)).all():
            raise ValueError("expected targets of 0 and 1")
        self._logits.append(logits.float().cpu())
        self._targets.append(target.bool().cpu())

    def compute(self) -> dict[str, Any]:
        """The metrics of everything counted.

        Returns:
            `loss` (binary cross-entropy, mean over rows and classes), `mAP`, `micro_f1` and `macro_f1` in percent, and `AP`: `[C]` in
            percent, NaN for a class without a positive row, which the two means over classes leave out.
        """
        if not sum(map(len, self._logits)):
            raise ValueError("nothing was counted: no batch held a row")
        logits, positive = torch.cat(self._logits), torch.cat(self._targets)
        loss = F.binary_cross_entropy_with_logits(logits.double(), positive.double()).item()
        precision = average_precision(logits, positive)
        there = positive.any(0)
        predicted = logits > 0  # a probability above one half
        hits, told, true = (each.sum(0).double() for each in (predicted & positive, predicted, positive))
        of_class = 2 * hits / (told + true).clamp(min=1)
        micro = 2 * hits.sum() / (told + true).sum().clamp(min=1)
        mean, macro = (each[there].mean().item() if there.any() else 0.0 for each in (precision, of_class))
        return {"loss": loss, "mAP": 100 * mean, "micro_f1": 100 * micro.item(), "macro_f1": 100 * macro, "AP": 100 * precision}

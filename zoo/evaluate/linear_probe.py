"""Linear probe: what a straight line can read off features that stay as they are. Multinomial logistic regression.

    min over W, b of  mean_i -log softmax(W z_i + b)[y_i]  +  λ/2 ||W||²;    z = (x - mean) / std of the training rows

λ is chosen on a fifth of the training rows that is held out of the fit, then all of them are fitted again. Everything is deterministic:
full batches, float64, L-BFGS, a held-out part that depends on the labels alone. scikit-learn's LogisticRegression has C = 1 / (λ N).

CLIP, Radford et al., arXiv 2103.00020, section 3.2, compares image towers by it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..progress import tracked
from .zero_shot import mean_class_recall, true_class_ranks

STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001)
_HELD_OUT = 5  # one row of so many


class LinearProbe:
    """Logistic regression on standardised features: `LinearProbe(x, labels, C).fit(strength)(x)` -> logits `[N, C]`.

    Fitted again with another strength it starts from where it was: a path of falling strengths costs little more than its last one.

    Args:
        x: `[N, D]` features of the training rows, which the mean and the deviation are of.
        labels: `[N]` classes, 0 to `classes` - 1.
        classes: C.
    """

    def __init__(self, x: Tensor, labels: Tensor, classes: int):
        x = x.double()
        self.mean, deviation = x.mean(0), x.std(0, correction=0)
        # a feature that is constant but for rounding says nothing, and must not be blown up
        self.deviation = torch.where(deviation > 1e-9 * self.mean.abs().clamp(min=1e-9), deviation, torch.inf)
        self._x, self._labels = self._standardised(x), labels
        self.weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
        self.bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)

    def _standardised(self, x: Tensor) -> Tensor:
        return (x.double() - self.mean) / self.deviation

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self._standardised(x) @ self.weight + self.bias

    def fit(self, strength: float, *, steps: int = 500, tolerance: float | None = None) -> "LinearProbe":
        """Minimise until no gradient is above the tolerance, or for so many steps."""
        tolerance = tolerance or min(1e-5, 1e-3 * strength)  # a gradient g leaves the weights within |g| / λ of where they belong
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias], max_iter=steps, tolerance_grad=tolerance, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            total = F.cross_entropy(self._x @ self.weight + self.bias, self._labels) + strength / 2 * self.weight.square().sum()
            total.backward()
            return total

        with torch.enable_grad():
            optimizer.step(loss)
        return self


def held_out(labels: Tensor) -> Tensor:
    """`[N]` booleans: about a fifth of each class with two rows or more, drawn under a fixed seed; one row of each at least."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    seen: dict[int, int] = {}
    out = torch.zeros(len(labels), dtype=torch.bool)
    for row, label in zip(order.tolist(), labels[order].tolist(), strict=True):
        seen[label] = seen.get(label, -1) + 1
        out[row] = seen[label] % _HELD_OUT == 1
    return out


def linear_probe(
    train: Tensor, train_labels: Any, test: Tensor, test_labels: Any, *, strengths: Sequence[float] = STRENGTHS
) -> dict[str, Any]:
    """Fit on the training rows, choose the strength on a part of them, and count on the test rows.

    Args:
        train, test: `[N, D]` and `[M, D]` features, of any length.
        train_labels, test_labels: `[N]` and `[M]` classes, from 0.
        strengths: λ to choose from; with a single one nothing is held out. At the same held-out accuracy the greater one is taken.

    Returns:
        In percent `top1`, `mean_class_recall` (of the classes that the test rows have) and `held_out_top1` (None if nothing was held out);
        `strength`, the one that was taken; `train_rows`. A tie counts against the model.

    Raises:
        ValueError: shapes do not fit, a feature is not finite, a single class, a strength that is not above 0, or no class has two
            training rows to hold one out.
    """
    train, test = train.detach().cpu(), test.detach().cpu()
    train_labels, test_labels = torch.as_tensor(train_labels).cpu(), torch.as_tensor(test_labels).cpu()
    for name, x, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if x.ndim != 2 or not x.numel() or labels.shape != x.shape[:1]:
            raise ValueError(f"{name}: expected features [N, D] and labels [N], got {list(x.shape)} and {list(labels.shape)}")
        if not x.isfinite().all():
            raise ValueError(f"{name}: {(~x.isfinite().all(1)).sum().item()} of {len(x)} rows have features that are not finite")
        if labels.min() < 0:
            raise ValueError(f"{name}: label {int(labels.min())}; expected classes from 0")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"train has {train.shape[1]} features, test {test.shape[1]}")
    if len(train_labels.unique()) < 2:
        raise ValueError(f"train: every row is of class {int(train_labels[0])}; expected two classes or more to tell apart")
    strengths = sorted(strengths, reverse=True)
    if not strengths or not strengths[-1] > 0:
        raise ValueError(f"strengths: expected numbers above 0, got {strengths}")
    classes = 1 + int(max(train_labels.max(), test_labels.max()))

    strength, best = strengths[0], None
    if len(strengths) > 1:
        out = held_out(train_labels)
        if not out.any():
            raise ValueError("train: no class has two rows, so none can be held out to choose the strength; give one strength")
        probe = LinearProbe(train[~out], train_labels[~out], classes)
        for each in tracked(strengths, len(strengths), "strengths"):
            top1 = _top1(true_class_ranks(probe.fit(each)(train[out]), train_labels[out]))
            if best is None or top1 > best:
                strength, best = each, top1
    ranks = true_class_ranks(LinearProbe(train, train_labels, classes).fit(strength)(test), test_labels)
    return {
        "top1": _top1(ranks),
        "mean_class_recall": mean_class_recall(ranks, test_labels),
        "held_out_top1": best,
        "strength": strength,
        "train_rows": len(train),
    }


def _top1(ranks: Tensor) -> float:
    return 100 * (ranks == 1).double().mean().item()

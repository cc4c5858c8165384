"""How the embeddings of two modalities lie on the sphere, and whether they have collapsed.

    alignment  = mean_i ||a_i - b_i||²                               0: what belongs together is at one point
    uniformity = log mean_(i,j) exp(-2 ||x_i - x_j||²)               0: all is at one point; -4 + 8/D: spread evenly over D dimensions
    cosine     = mean_(i,j) <x_i, x_j>                               1: all points one way
    gap        = ||mean_i a_i - mean_i b_i||                         0 to 2: the modalities live apart

The means over (i, j) are over rows of different things: rows of one thing may well be at one point. A collapse is not visible in the loss
at once, and in retrieval only as "nothing is found"; here it is named.

Alignment, uniformity: Wang and Isola, arXiv 2005.10242. Gap: Liang et al., arXiv 2203.02053.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

COLLAPSED_COSINE = 0.9
COLLAPSED_UNIFORMITY = -0.5  # two points far apart, half of the rows at each, have -0.69: fewer than two places are in use
TWIN_COSINE = 0.999
TWINS = 25.0


def geometry(
    a: Tensor, b: Tensor, ids: Any = None, *, names: tuple[str, str] = ("a", "b"), most: int = 4096, chunk: int = 512
) -> dict[str, Any]:
    """The numbers above, as plain floats.

    Args:
        a, b: `[N, D]` each, of unit length; row i of both belongs together.
        ids: `[N]` integers, equal where rows are the same thing; by default all differ.
        names: of the two modalities.
        most: rows, evenly spaced, over whose pairs uniformity and twins are taken; the rest of the numbers are of all rows.
        chunk: rows at a time: memory is chunk × `most`.

    Returns:
        `alignment`, `gap`, and under the name of each modality `uniformity`, `cosine`, and `twins`: percent of the rows that lie on the
        point of another thing (cosine above 0.999). All rows of one thing: there is nothing to compare, and these are left out.

    Raises:
        ValueError: shapes do not fit, or an embedding is not finite.
    """
    if a.ndim != 2 or a.shape != b.shape or not a.numel():
        raise ValueError(f"expected [N, D] embeddings twice, got {list(a.shape)} and {list(b.shape)}")
    ids = torch.arange(len(a)) if ids is None else torch.as_tensor(ids).cpu()
    if ids.shape != a.shape[:1]:
        raise ValueError(f"ids: expected {len(a)} integers, one a row, got shape {list(ids.shape)}")
    for name, x in zip(names, (a, b), strict=True):
        if not x.isfinite().all():
            raise ValueError(f"{name}: {(~x.isfinite().all(1)).sum().item()} of {len(x)} embeddings are not finite")
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    measured: dict[str, Any] = {
        "alignment": (a - b).square().sum(1).mean().item(),
        "gap": (a.mean(0) - b.mean(0)).norm().item(),
    }
    number = ids.unique(return_inverse=True)[1]
    for name, x in zip(names, (a, b), strict=True):
        pairs = _pairs(x, number, most, chunk)
        measured[name] = {**pairs, "cosine": _cosine(x, number)} if pairs else {}
    return measured


def warning(measured: Mapping[str, Any]) -> str | None:
    """A sentence on what has collapsed and the likely cause, or None.

    Args:
        measured: what `geometry` gave.
    """
    sides = {name: its for name, its in measured.items() if isinstance(its, Mapping) and its}
    collapsed = [name for name, its in sides.items() if its["cosine"] > COLLAPSED_COSINE or its["uniformity"] > COLLAPSED_UNIFORMITY]
    if collapsed:
        numbers = ", ".join(
            f"{name}: mean cosine {sides[name]['cosine']:.2f}, uniformity {sides[name]['uniformity']:.2f}" for name in collapsed
        )
        if len(collapsed) == len(sides):
            return (
                f"the embeddings have collapsed, nearly all are at one point ({numbers}): the learning rate is too high, the training has "
                "hardly begun, or the batches are too small or too alike to hold rows that differ"
            )
        return (
            f"the embeddings of {collapsed[0]} have collapsed, nearly all are at one point ({numbers}), those of the other modality have "
            f"not: look at what the {collapsed[0]} tower is given (empty, cut off or the same in all rows), then at its learning rate"
        )
    twins = [name for name, its in sides.items() if its["twins"] > TWINS]
    if twins:
        numbers = ", ".join(f"{sides[name]['twins']:.0f} % of {name}" for name in twins)
        return (
            f"many embeddings lie on the point of something else ({numbers}): rows are given the same values, which then need one id, or "
            "the tower cannot tell them apart (texts cut off before they differ, empty cells)"
        )
    return None


def _cosine(x: Tensor, number: Tensor) -> float:
    """Over all pairs of different things, by sums alone: |sum of all|² minus |sum of each thing|²."""
    sums = torch.zeros(int(number.max()) + 1, x.shape[1], dtype=x.dtype).index_add_(0, number, x)
    pairs = len(x) ** 2 - number.bincount().square().sum()
    return ((x.sum(0).square().sum() - sums.square().sum()) / pairs).item()


def _pairs(x: Tensor, number: Tensor, most: int, chunk: int) -> dict[str, float]:
    if len(x) > most:
        rows = torch.linspace(0, len(x) - 1, most).round().long()
        x, number = x[rows], number[rows]
    total, pairs, twins = 0.0, 0, 0
    for part, its in zip(x.split(chunk), number.split(chunk), strict=True):
        cosine = part @ x.T
        other = its[:, None] != number[None, :]
        total += ((4 * cosine - 4).exp() * other).sum().item()  # of unit length: ||x - y||² = 2 - 2 <x, y>
        pairs += int(other.sum())
        twins += int(((cosine > TWIN_COSINE) & other).any(1).sum())
    return {} if not pairs else {"uniformity": math.log(total / pairs), "twins": 100 * twins / len(x)}

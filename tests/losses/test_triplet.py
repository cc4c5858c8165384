"""Hinges over all negatives, in plain loops; and torch's own triplet loss, which is told its triplets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.losses import triplet


def by_hand(a, b, margin, ids):
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(len(x)):
            hinges = [max(0.0, margin + np.dot(x[i], y[j]) - np.dot(x[i], y[i])) for j in range(len(y)) if ids[j] != ids[i]]
            total += np.mean(hinges or [0.0]) / len(x)
    return total


@pytest.mark.parametrize("margin", [0.2, 0.7])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 2, 1, 3], [4] * 7], ids=["unique", "some", "all"])
def test_against_loops(ids, margin):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 7, 5))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    value = triplet(torch.tensor(a), torch.tensor(b), ids=torch.tensor(ids), margin=margin)
    assert value.item() == pytest.approx(by_hand(a, b, margin, ids), rel=1e-12)
    assert margin != 0.2 or torch.equal(value, triplet(torch.tensor(a), torch.tensor(b), ids=torch.tensor(ids)))


def test_against_torch():
    a, b = F.normalize(torch.randn(2, 9, 6, dtype=torch.float64), dim=-1)
    i, j = (~torch.eye(9, dtype=torch.bool)).nonzero(as_tuple=True)
    theirs = torch.nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: 1 - (x * y).sum(-1), margin=0.2)
    torch.testing.assert_close(triplet(a, b), theirs(a[i], b[i], b[j]) + theirs(b[i], a[i], a[j]))


@pytest.mark.parametrize("margin", [0.0, -0.2, 2.5])
def test_no_difference_of_cosines(margin):
    with pytest.raises(ValueError, match=f"margin is a difference of cosines, above 0 and at most 2, got {margin}"):
        triplet(torch.eye(2), torch.eye(2), margin=margin)

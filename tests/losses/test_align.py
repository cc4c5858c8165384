"""InfoNCE with smoothed labels, in plain NumPy loops."""

import math

import numpy as np
import pytest
import torch

from zoo.losses import align, clip


def by_hand(a, b, scale, ids, smoothing):
    rows, total = len(a), 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(rows):
            logits = np.array([scale * np.dot(x[i], y[j]) for j in range(rows)])
            log_p = logits - (np.log(np.sum(np.exp(logits - logits.max()))) + logits.max())
            likes = ids.count(ids[i])
            target = [(1 - smoothing) * (ids[j] == ids[i]) / likes + smoothing / rows for j in range(rows)]
            assert sum(target) == pytest.approx(1)
            total -= np.dot(target, log_p) / rows
    return total / 2


@pytest.mark.parametrize("smoothing", [0.1, 0.6])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 2, 1, 3], [4] * 7], ids=["unique", "some", "all"])
def test_against_loops(ids, smoothing):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 7, 5))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    given = {"logit_scale": torch.tensor([14.0]), "ids": torch.tensor(ids), "smoothing": smoothing}
    assert align(torch.tensor(a), torch.tensor(b), **given).item() == pytest.approx(by_hand(a, b, 14.0, ids, smoothing), rel=1e-12)


def test_the_default_is_the_papers_and_none_is_clip():
    eye, scale = torch.eye(4, dtype=torch.float64), torch.tensor([5.0])
    assert align(eye, eye, logit_scale=scale).item() == pytest.approx(by_hand(eye.numpy(), eye.numpy(), 5.0, [0, 1, 2, 3], 0.1))
    assert torch.equal(align(eye, eye, logit_scale=scale, smoothing=0.0), clip(eye, eye, logit_scale=scale))
    assert math.exp(align.init_logit_scale) == 1 and align.init_logit_bias is None


def test_too_large_a_scale_does_not_pay():
    """Perfect embeddings: clip's loss falls with the scale for ever, this one turns where the softmax is the smoothed target."""
    eye, rows = torch.eye(8, dtype=torch.float64), 8
    best = math.log((0.9 + 0.1 / rows) / (0.1 / rows))  # of the logits: the difference of the target's logarithms
    scale = torch.tensor([best], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(align(eye, eye, logit_scale=scale), scale)[0].item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(clip(eye, eye, logit_scale=scale), scale)[0] < -1e-3


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_no_share_of_the_target(smoothing):
    with pytest.raises(ValueError, match=f"smoothing is a share of the target, 0 or more and below 1, got {smoothing}"):
        align(torch.eye(2), torch.eye(2), logit_scale=torch.ones(1), smoothing=smoothing)

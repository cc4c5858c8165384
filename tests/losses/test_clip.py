"""InfoNCE in plain NumPy loops."""

import math

import numpy as np
import pytest
import torch

from zoo.losses import clip


def by_hand(a, b, scale, ids):
    rows, total = len(a), 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(rows):
            logits = np.array([scale * np.dot(x[i], y[j]) for j in range(rows)])
            log_sum = np.log(np.sum(np.exp(logits - logits.max()))) + logits.max()
            positives = [j for j in range(rows) if ids[j] == ids[i]]
            total += np.mean([log_sum - logits[j] for j in positives]) / rows
    return total / 2


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 2, 1, 3], [4] * 7], ids=["unique", "some", "all"])
def test_against_loops(ids):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 7, 5))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    value = clip(torch.tensor(a), torch.tensor(b), logit_scale=torch.tensor([14.0]), ids=torch.tensor(ids))
    assert value.item() == pytest.approx(by_hand(a, b, 14.0, ids), rel=1e-12)


def test_known_values():
    eye, scale = torch.eye(8), torch.tensor([5.0])
    assert clip(eye, eye, logit_scale=scale).item() == pytest.approx(math.log(math.exp(5) + 7) - 5, rel=1e-5)
    same = eye[:1].expand(8, -1)
    assert clip(same, same, logit_scale=scale).item() == pytest.approx(math.log(8), rel=1e-6)


def test_a_bias_changes_nothing():
    eye, scale = torch.eye(4), torch.tensor([5.0])
    assert torch.equal(clip(eye, eye, logit_scale=scale, logit_bias=torch.tensor([-3.0])), clip(eye, eye, logit_scale=scale))


def test_starts_where_clip_starts():
    assert math.exp(clip.init_logit_scale) == pytest.approx(14.2857, rel=1e-5) and clip.init_logit_bias is None

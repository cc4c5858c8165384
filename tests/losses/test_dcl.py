"""Decoupled contrastive learning in plain NumPy loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.losses import clip, dcl


def by_hand(a, b, temperature, ids):
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(len(x)):
            strangers = [np.dot(x[i], y[j]) / temperature for j in range(len(y)) if ids[j] != ids[i]]
            likes = [np.dot(x[i], y[j]) / temperature for j in range(len(y)) if ids[j] == ids[i]]
            total += np.log(np.sum(np.exp(strangers))) - np.mean(likes)
    return total / len(a) / 2


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 2, 1, 3]], ids=["unique", "some"])
def test_against_loops(ids, temperature):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 7, 5))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    value = dcl(torch.tensor(a), torch.tensor(b), ids=torch.tensor(ids), temperature=temperature)
    assert value.item() == pytest.approx(by_hand(a, b, temperature, ids), rel=1e-12)
    assert temperature != 0.1 or torch.equal(value, dcl(torch.tensor(a), torch.tensor(b), ids=torch.tensor(ids)))


def test_an_easy_row_still_pulls():
    """The factor 1 - p that InfoNCE puts on the pull between partners, and this loss does not: all of 1/τ is left."""
    a, b = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64).requires_grad_()
    p = F.softmax(a @ b.detach().T / 0.1, dim=1)[0, 0].item()
    (decoupled,) = torch.autograd.grad(dcl(a, b), b)
    (coupled,) = torch.autograd.grad(clip(a, b, logit_scale=torch.tensor([10.0])), b)
    assert decoupled[0, 0].item() == pytest.approx(-10 / 4)
    assert coupled[0, 0].item() == pytest.approx(-10 / 4 * (1 - p)) and p > 0.999


def test_without_negatives_nothing_is_said():
    a = F.normalize(torch.randn(5, 8), dim=-1).requires_grad_()
    value = dcl(a, a.roll(1, 0), ids=torch.zeros(5, dtype=torch.long))
    assert value == 0 and not torch.autograd.grad(value, a)[0].any()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_no_temperature(temperature):
    with pytest.raises(ValueError, match=f"temperature divides the cosines and is above 0, got {temperature}"):
        dcl(torch.eye(2), torch.eye(2), temperature=temperature)

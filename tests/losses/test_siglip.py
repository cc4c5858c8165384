"""The sigmoid loss in plain NumPy loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.losses import siglip


def by_hand(a, b, scale, bias, ids):
    total = 0.0
    for i in range(len(a)):
        for j in range(len(b)):
            label = 1 if ids[i] == ids[j] else -1
            total += math.log1p(math.exp(-label * (scale * np.dot(a[i], b[j]) + bias)))
    return total / len(a)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 2, 1, 3], [4] * 7], ids=["unique", "some", "all"])
def test_against_loops(ids):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 7, 5))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    given = {"logit_scale": torch.tensor([10.0]), "logit_bias": torch.tensor([-1.75])}
    value = siglip(torch.tensor(a), torch.tensor(b), ids=torch.tensor(ids), **given)
    assert value.item() == pytest.approx(by_hand(a, b, 10.0, -1.75, ids), rel=1e-12)


def test_no_bias_is_a_bias_of_zero():
    eye, scale = torch.eye(4), torch.tensor([5.0])
    assert torch.equal(siglip(eye, eye, logit_scale=scale), siglip(eye, eye, logit_scale=scale, logit_bias=torch.zeros(1)))


@pytest.mark.parametrize("rows", [32, 128, 512])
def test_the_start_is_calm_at_any_batch_size(rows):
    """Random unit embeddings of width D: about log(B-1) from the positives and E[exp(s cos)] = exp(s^2 / 2D) from the negatives."""
    torch.manual_seed(0)
    a, b = F.normalize(torch.randn(2, rows, 256), dim=-1)
    scale = torch.tensor([math.exp(siglip.init_logit_scale)])
    at_start = siglip(a, b, logit_scale=scale, logit_bias=torch.tensor([siglip.init_logit_bias(rows)])).item()
    assert at_start == pytest.approx(math.log(rows - 1) + math.exp(100 / 512), abs=0.15)
    assert at_start < siglip(a, b, logit_scale=scale, logit_bias=torch.tensor([-10.0])).item() - 2


def test_starts_where_the_paper_starts_but_for_the_bias():
    assert math.exp(siglip.init_logit_scale) == pytest.approx(10)
    assert siglip.init_logit_bias(32) == pytest.approx(math.log(1 / 31))
    assert siglip.init_logit_bias(1) == 0

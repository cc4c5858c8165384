"""Cross-modal Barlow Twins beside NumPy's correlations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.losses import barlow


@pytest.mark.parametrize("redundancy", [5e-3, 0.5])
def test_against_numpys_correlations(redundancy):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 40, 5))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    correlation = np.corrcoef(a, b, rowvar=False)[:5, 5:]
    weights = np.where(np.eye(5, dtype=bool), 1, redundancy)
    expected = (weights * (correlation - np.eye(5)) ** 2).sum()
    value = barlow(torch.tensor(a), torch.tensor(b), redundancy=redundancy).item()
    assert value == pytest.approx(expected, rel=1e-4)  # the guard of 1e-5 beside variances of about 1
    assert redundancy != 5e-3 or value == barlow(torch.tensor(a), torch.tensor(b)).item()


def test_the_guard_is_small_beside_unit_length_at_any_width():
    """Against itself without redundancy each component's correlation is 1, but for the guard; unscaled it would be 1 / (1 + 1e-5 D)."""
    a = F.normalize(torch.randn(4096, 2048), dim=-1)
    assert barlow(a, a, redundancy=0.0) / 2048 < (2e-5) ** 2


def test_one_row_is_a_loss_of_d_without_gradient():
    a = F.normalize(torch.randn(1, 8), dim=-1).requires_grad_()
    value = barlow(a, a * 1.0)
    assert value == 8 and not torch.autograd.grad(value, a)[0].any()


def test_no_weight():
    with pytest.raises(ValueError, match="redundancy is a weight, 0 or more, got -1.0"):
        barlow(torch.eye(2), torch.eye(2), redundancy=-1.0)

"""VICReg beside NumPy's variances and covariances."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.losses import vicreg


@pytest.mark.parametrize("weights", [{}, {"invariance": 1.0, "variance": 2.0, "covariance": 3.0}], ids=["paper", "own"])
def test_against_numpy(weights):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 40, 5)) + 0.5
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    expected = weights.get("invariance", 25) * 5 * ((a - b) ** 2).mean()
    for z in (a * 5**0.5, b * 5**0.5):
        covariance = np.cov(z, rowvar=False)
        hinge = np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4))
        assert hinge.any()
        expected += weights.get("variance", 25) * hinge.mean()
        expected += weights.get("covariance", 1) * (covariance[~np.eye(5, dtype=bool)] ** 2).sum() / 5
    assert vicreg(torch.tensor(a), torch.tensor(b), **weights).item() == pytest.approx(expected, rel=1e-12)


def test_the_target_is_met_by_an_even_spread_and_by_no_point():
    """Evenly over the sphere nothing is left to ask for; all in one point, the deviations lack all but the root of ε."""
    only = {"invariance": 0.0, "covariance": 0.0, "variance": 1.0}
    even = F.normalize(torch.randn(20000, 16), dim=-1)
    assert vicreg(even, even, **only) < 0.02
    point = even[:1].expand(50, -1)
    assert vicreg(point, point, **only).item() == pytest.approx(2 * 0.99)


def test_one_row_has_only_its_partner():
    a, b = F.normalize(torch.randn(2, 1, 8), dim=-1).requires_grad_()
    rest = vicreg(a, b, invariance=0.0)
    assert not torch.autograd.grad(rest, a)[0].any()
    assert torch.autograd.grad(vicreg(a, b), a)[0].any()


@pytest.mark.parametrize("name", ["invariance", "variance", "covariance"])
def test_no_weight(name):
    with pytest.raises(ValueError, match=f"{name} is a weight, 0 or more, got -1.0"):
        vicreg(torch.eye(2), torch.eye(2), **{name: -1.0})

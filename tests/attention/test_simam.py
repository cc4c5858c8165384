"""`simam` against the paper's energy in plain loops, its closed form at one pixel, and the size of its gate."""

import math

import numpy as np
import pytest
import torch

from zoo.attention import SimAM


def reference(picture: np.ndarray, lam: float) -> np.ndarray:
    """By the minimal energy e* of every neuron, 4 (v + lambda) / (d + 2 v + 2 lambda): the gate is sigmoid(1 / e*)."""
    y = np.empty_like(picture)
    for b, c in np.ndindex(picture.shape[:2]):
        values = [float(value) for value in picture[b, c].ravel()]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
        for i, j in np.ndindex(picture.shape[2:]):
            t = picture[b, c, i, j]
            energy = 4 * (variance + lam) / ((t - mean) ** 2 + 2 * variance + 2 * lam)
            y[b, c, i, j] = t / (1 + math.exp(-1 / energy))
    return y


@pytest.mark.parametrize("options", [{}, {"regularization": 0.5}], ids=str)
def test_the_papers_energy(options):
    x = torch.randn(2, 8, 5, 4, dtype=torch.float64) * 0.1
    wanted = reference(x.numpy(), options.get("regularization", 1e-4))
    assert np.allclose(SimAM(8, **options)(x).numpy(), wanted, rtol=0, atol=1e-12)


def test_it_has_no_parameters():
    assert not SimAM(24).state_dict()


def test_one_pixel_stands_out_from_nothing():
    x = torch.randn(2, 8, 1, 1)
    assert torch.allclose(SimAM(8)(x), x / (1 + math.exp(-0.5)))


def test_the_gate_grows_with_the_distance():
    x = torch.ones(1, 8, 4, 4)
    x[..., 0, 0] = 5
    gate = SimAM(8)(x) / x
    assert (gate[..., 0, 0] > gate[..., 1, 1]).all()
    assert gate.min() >= 1 / (1 + math.exp(-0.5)) - 1e-6


def test_float16_sums_of_squares_do_not_overflow():
    x = torch.linspace(-900, 900, 8 * 49).reshape(1, 8, 7, 7)
    y = SimAM(8)(x.half())
    assert torch.allclose(y.float(), SimAM(8)(x), rtol=0.01, atol=0.5)
    assert x.half().square().isinf().any(), "what float32 is for"


@pytest.mark.parametrize("regularization", [0, -1e-4])
def test_lambda_is_positive(regularization):
    with pytest.raises(ValueError, match=f"positive.* got {regularization}"):
        SimAM(24, regularization=regularization)

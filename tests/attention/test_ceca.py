"""`ceca` in plain loops around the ring, its width at many channel counts, timm's class with the same weight, and no edges."""

import math

import numpy as np
import pytest
import torch
from timm.layers import CecaModule, EcaModule

from zoo.attention import CECA


@pytest.mark.parametrize("kernel_size", [None, 1, 3, 7, 9])
@pytest.mark.parametrize("channels", [24, 9])
def test_the_equation(channels, kernel_size):
    gate = CECA(channels, kernel_size=kernel_size).double()
    (w,) = gate.conv.weight.detach().numpy()[:, 0]
    x = torch.randn(3, channels, 5, 4, dtype=torch.float64)
    picture = x.numpy()
    wanted = np.empty_like(picture)
    for b in range(3):
        means = [picture[b, c].mean() for c in range(channels)]
        for c in range(channels):
            total = sum(w[j] * means[(c + j - len(w) // 2) % channels] for j in range(len(w)))
            wanted[b, c] = picture[b, c] / (1 + math.exp(-total))
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels, kernel_size", [(8, 3), (32, 3), (96, 3), (144, 5), (480, 5), (1152, 5), (2304, 7)])
def test_equals_timms(channels, kernel_size):
    timms, ours = CecaModule(channels), CECA(channels)
    assert tuple(ours.conv.weight.shape) == (1, 1, kernel_size)
    ours.load_state_dict(timms.state_dict(), strict=True)
    timms.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, channels, 7, 5)
    assert torch.equal(ours(x), timms(x))


def test_gamma_and_beta():
    assert CECA(512, gamma=1, beta=1).conv.kernel_size == (11,)
    assert CECA(512, gamma=2, beta=5).conv.kernel_size == (7,)


def test_a_ring_has_no_ends():
    """Turning the channels turns the result; with zero padding it does not."""
    ring, line = CECA(16), EcaModule(16)
    line.load_state_dict(ring.state_dict(), strict=True)
    x = torch.randn(2, 16, 3, 3)
    assert torch.allclose(ring(x.roll(5, 1)), ring(x).roll(5, 1), atol=1e-6)
    assert not torch.allclose(line(x.roll(5, 1)), line(x).roll(5, 1), atol=1e-3)


@pytest.mark.parametrize("kernel_size", [2, 0, -1, 4, 25])
def test_even_and_endless_kernels_are_refused(kernel_size):
    with pytest.raises(ValueError, match=f"odd number.* at most 24, got {kernel_size}"):
        CECA(24, kernel_size=kernel_size)


def test_calm_is_one_half():
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(CECA(24, calm=True)(x), x / 2)

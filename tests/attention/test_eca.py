"""`eca` against the paper's equations in plain loops, the width rule at many channel counts, and timm's class with the same weight."""

import math

import numpy as np
import pytest
import torch
from timm.layers import EcaModule

from zoo.attention import ECA


@pytest.mark.parametrize("kernel_size", [None, 1, 3, 7])
def test_the_papers_equations(kernel_size):
    gate = ECA(24, kernel_size=kernel_size).double()
    (w,) = gate.conv.weight.detach().numpy()[:, 0]
    x = torch.randn(3, 24, 5, 4, dtype=torch.float64)
    picture = x.numpy()
    wanted = np.empty_like(picture)
    for b in range(3):
        means = [picture[b, c].mean() for c in range(24)]
        for c in range(24):
            total = 0.0
            for j in range(len(w)):
                neighbour = c + j - len(w) // 2
                if 0 <= neighbour < 24:
                    total += w[j] * means[neighbour]
            wanted[b, c] = picture[b, c] / (1 + math.exp(-total))
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


def odd(channels: int) -> int:
    """Equation 12 with gamma 2, b 1, in integers: t = floor((log2(C) + 1) / 2), made odd upwards."""
    t = 0
    while 2 ** (2 * (t + 1) - 1) <= channels:
        t += 1
    return t if t % 2 else t + 1


def test_the_papers_width():
    assert {channels: ECA(channels).conv.kernel_size[0] for channels in (8, 32, 96, 144, 240, 480, 672, 1152)} == {
        8: 3,
        32: 3,
        96: 3,
        144: 5,
        240: 5,
        480: 5,
        672: 5,
        1152: 5,
    }
    for channels in range(8, 4097, 8):
        assert ECA(channels, device="meta").conv.kernel_size == (odd(channels),), channels


def test_gamma_and_beta():
    assert ECA(512, gamma=1, beta=1).conv.kernel_size == (11,)
    assert ECA(512, gamma=2, beta=5).conv.kernel_size == (7,)


@pytest.mark.parametrize("channels", [8, 32, 144, 672, 1152, 2304])
def test_equals_timms(channels):
    timms, ours = EcaModule(channels), ECA(channels)
    ours.load_state_dict(timms.state_dict(), strict=True)
    x = torch.randn(2, channels, 7, 5)
    assert torch.allclose(ours(x), timms(x), atol=1e-6)


def test_parameters_do_not_grow():
    assert sum(p.numel() for p in ECA(2304).parameters()) == 7


@pytest.mark.parametrize("kernel_size", [2, 0, -1, 4])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(ValueError, match=f"odd number.* got {kernel_size}"):
        ECA(24, kernel_size=kernel_size)


def test_calm_is_one_half():
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(ECA(24, calm=True)(x), x / 2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(1, 32, 7, 7), (17, 320, 7, 7), (3, 96, 33, 40), (1, 1152, 14, 9), (2, 16, 1, 1)], ids=str)
def test_in_use_equals_timms_to_the_last_bit(shape, layout):
    """A saved network gives equal answers in either library; in training, too, it computes the same numbers."""
    timms, ours = EcaModule(shape[1]).eval(), ECA(shape[1]).eval()
    ours.load_state_dict(timms.state_dict(), strict=True)
    x = torch.randn(shape).contiguous(memory_format=layout)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert torch.equal(ours(x), timms(x))

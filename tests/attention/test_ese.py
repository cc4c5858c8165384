"""`ese` against the paper's equation in plain loops, where its sigmoid is straight and where it is flat, and timm's class, key for key."""

import numpy as np
import pytest
import torch
from timm.layers import EffectiveSEModule

from zoo.attention import ESE


@pytest.mark.parametrize("scale", [1, 20], ids=["straight", "flat"])
def test_the_papers_equation(scale):
    gate = ESE(24).double()
    w, b = gate.fc.weight.detach().numpy()[:, :, 0, 0], gate.fc.bias.detach().numpy()
    x = torch.randn(3, 24, 3, 2, dtype=torch.float64) * scale
    picture = x.numpy()
    wanted, gates = np.empty_like(picture), []
    for i in range(3):
        z = np.array([picture[i, c].sum() / 6 for c in range(24)])
        for c in range(24):
            gates.append(min(max((w[c] @ z + b[c] + 3) / 6, 0), 1))
            wanted[i, c] = picture[i, c] * gates[-1]
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12 * scale)
    assert (0 in gates and 1 in gates) == (scale == 20), "the corners were met only with the large pictures"


@pytest.mark.parametrize("channels", [8, 24, 144, 672])
def test_equals_timms(channels):
    timms, ours = EffectiveSEModule(channels), ESE(channels)
    ours.load_state_dict(timms.state_dict(), strict=True)
    timms.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, channels, 7, 5)
    assert torch.equal(ours(x), timms(x))


def test_no_bottleneck():
    gate = ESE(40, rd_ratio=1 / 24, act_layer="silu")
    assert {key: tuple(value.shape) for key, value in gate.state_dict().items()} == {"fc.weight": (40, 40, 1, 1), "fc.bias": (40,)}


def test_calm_is_one_half():
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(ESE(24, calm=True)(x), x / 2)

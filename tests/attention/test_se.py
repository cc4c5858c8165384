"""`se` against the paper's equation in float64 NumPy, and against timm's own class with the same weights."""

import numpy as np
import pytest
import torch
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from zoo.attention import SE


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_papers_equations():
    gate = SE(32).double()
    x = torch.randn(3, 32, 5, 4, dtype=torch.float64)
    w1, b1 = gate.conv_reduce.weight.detach().numpy()[:, :, 0, 0], gate.conv_reduce.bias.detach().numpy()
    w2, b2 = gate.conv_expand.weight.detach().numpy()[:, :, 0, 0], gate.conv_expand.bias.detach().numpy()
    picture = x.numpy()
    wanted = np.empty_like(picture)
    for b in range(3):
        z = np.array([picture[b, c].sum() / 20 for c in range(32)])  # equation 2
        s = sigmoid(w2 @ np.maximum(w1 @ z + b1, 0) + b2)  # equation 3
        for c in range(32):
            wanted[b, c] = s[c] * picture[b, c]  # equation 4
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [16, 32, 96, 1152])
def test_the_papers_width(channels):
    gate = SE(channels)
    assert gate.conv_reduce.out_channels == channels // 16
    assert sum(p.numel() for p in gate.parameters()) == 2 * channels * (channels // 16) + channels + channels // 16
    assert isinstance(gate.act1, nn.ReLU)


def test_never_without_a_bottleneck():
    assert SE(8, rd_ratio=0.01).conv_reduce.out_channels == 1


@pytest.mark.parametrize("channels, rd_ratio", [(32, 0.25), (96, 0.25 / 6), (144, 0.25 / 6), (1152, 0.25 / 6), (40, 0.25), (672, 0.25 / 4)])
def test_equals_timms(channels, rd_ratio):
    timms = SqueezeExcite(channels, rd_ratio=rd_ratio, act_layer=nn.SiLU)
    ours = SE(channels, rd_ratio=rd_ratio, act_layer=nn.SiLU)
    ours.load_state_dict(timms.state_dict(), strict=True)
    x = torch.randn(2, channels, 7, 5)
    assert torch.equal(ours(x), timms(x))


def test_calm_is_one_half():
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(SE(24, calm=True)(x), x / 2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(1, 32, 7, 7), (17, 320, 7, 7), (3, 96, 33, 40), (1, 1152, 14, 9), (2, 16, 1, 1)], ids=str)
def test_in_use_equals_timms_to_the_last_bit(shape, layout):
    """A saved network gives equal answers in either library; in training, too, it computes the same numbers."""
    timms = SqueezeExcite(shape[1], rd_ratio=0.25, act_layer=nn.SiLU).eval()
    ours = SE(shape[1], rd_ratio=0.25, act_layer=nn.SiLU).eval()
    ours.load_state_dict(timms.state_dict(), strict=True)
    x = torch.randn(shape).contiguous(memory_format=layout)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert torch.equal(ours(x), timms(x))

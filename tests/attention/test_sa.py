"""`sa` against the paper's equations in plain loops, its shuffle as a permutation, its groups at other widths, and the paper's start."""

import math
import statistics

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import ShuffleAttention


def stirred(channels: int, **kwargs) -> ShuffleAttention:
    gate = ShuffleAttention(channels, **kwargs)
    for tensor in gate.parameters():
        nn.init.normal_(tensor)
    return gate


def order(channels: int) -> list[int]:
    """Two piles of channels dealt out in turn: 0, C/2, 1, C/2 + 1, ..."""
    return [channel for pair in zip(range(channels // 2), range(channels // 2, channels), strict=True) for channel in pair]


@pytest.mark.parametrize("channels, groups, shuffle", [(256, 64, True), (24, 4, True), (24, 3, True), (24, 4, False)])
def test_the_papers_equations(channels, groups, shuffle):
    gate = stirred(channels, groups=groups, shuffle=shuffle).double()
    value = {key: tensor.detach().numpy().ravel() for key, tensor in gate.named_parameters()}
    half = channels // (2 * groups)
    x = torch.randn(2, channels, 4, 3, dtype=torch.float64)
    picture = x.numpy()
    gated = np.empty_like(picture)
    for b in range(2):
        for c in range(channels):
            k = c % half  # all groups share their numbers
            pixels = picture[b, c]
            mean = statistics.fmean(pixels.ravel())
            if c % (2 * half) < half:
                z = value["channel_weight"][k] * mean + value["channel_bias"][k]
            else:
                normed = (pixels - mean) / math.sqrt(statistics.pvariance(pixels.ravel()) + 1e-5)
                normed = value["norm_weight"][k] * normed + value["norm_bias"][k]
                z = value["spatial_weight"][k] * normed + value["spatial_bias"][k]
            gated[b, c] = pixels / (1 + np.exp(-z))
    wanted = gated[:, order(channels)] if shuffle else gated
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-10)


def test_epsilon_stands_under_the_root():
    gate = stirred(8, groups=1, shuffle=False).double()
    x = 1 + 1e-3 * torch.randn(2, 8, 5, 5, dtype=torch.float64)
    norm = nn.GroupNorm(4, 4).double()
    norm.load_state_dict({"weight": gate.norm_weight.flatten(), "bias": gate.norm_bias.flatten()})
    wanted = x[:, 4:] * torch.sigmoid(gate.spatial_weight * norm(x[:, 4:]) + gate.spatial_bias)
    assert torch.allclose(gate(x)[:, 4:], wanted, rtol=1e-10)


@pytest.mark.parametrize("channels, groups", [(8, 4), (16, 8), (24, 12), (144, 36), (504, 63), (672, 56), (1152, 64), (2304, 64)])
def test_the_papers_groups(channels, groups):
    gate = ShuffleAttention(channels)
    assert gate.groups == groups
    assert all(parameter.shape == (1, channels // (2 * groups), 1, 1) for parameter in gate.parameters())


@pytest.mark.parametrize("calm", [False, True])
def test_it_starts_at_sigmoid_of_one(calm):
    x = torch.randn(2, 24, 5, 4)
    start = x / (1 + math.exp(-1))
    assert torch.allclose(ShuffleAttention(24, calm=calm)(x), start[:, order(24)])
    assert torch.allclose(ShuffleAttention(24, calm=calm, shuffle=False)(x), start)


@pytest.mark.parametrize("shuffle", [True, False])
def test_channels_last_stays(shuffle):
    gate = stirred(24, groups=3, shuffle=shuffle)
    x = torch.randn(2, 24, 5, 4)
    y = gate(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last) and torch.allclose(y, gate(x), atol=1e-6)


def test_weight_decay_leaves_it_alone():
    assert ShuffleAttention(24).no_weight_decay() == {name for name, _ in ShuffleAttention(24).named_parameters()}


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="positive.* got 0"):
        ShuffleAttention(24, groups=0)
    with pytest.raises(ValueError, match="even.* got 9"):
        ShuffleAttention(9)

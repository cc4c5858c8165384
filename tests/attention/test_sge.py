"""`sge` against the paper's equations in plain loops, its groups at other widths, and the start that the paper gives it."""

import math
import statistics

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import SGE


def stirred(channels: int, **kwargs) -> SGE:
    gate = SGE(channels, **kwargs)
    for tensor in (gate.weight, gate.bias):
        nn.init.normal_(tensor)
    return gate


@pytest.mark.parametrize("channels, groups", [(128, 64), (24, 4), (24, 24)])
def test_the_papers_equations(channels, groups):
    gate = stirred(channels, groups=groups).double()
    weight, bias = gate.weight.detach().numpy().ravel(), gate.bias.detach().numpy().ravel()
    x = torch.randn(2, channels, 4, 3, dtype=torch.float64)
    picture, width = x.numpy(), channels // groups
    wanted = np.empty_like(picture)
    for b in range(2):
        for g in range(groups):
            part = picture[b, g * width : (g + 1) * width]
            means = [statistics.fmean(channel.ravel()) for channel in part]
            t = [[sum(means[c] * part[c, i, j] for c in range(width)) for j in range(3)] for i in range(4)]
            values = [value for row in t for value in row]
            mean, std = statistics.fmean(values), statistics.stdev(values)
            for i, j in np.ndindex(4, 3):
                normed = (t[i][j] - mean) / (std + 1e-5)
                wanted[b, g * width : (g + 1) * width, i, j] = part[:, i, j] / (1 + math.exp(-weight[g] * normed - bias[g]))
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-10)


def test_epsilon_stands_beside_the_deviation():
    """Nearly flat maps: eps under the root, or none, would give other numbers."""
    gate = stirred(8, groups=1).double()
    x = 1 + 1e-6 * torch.randn(1, 8, 5, 5, dtype=torch.float64)
    t = (x * x.mean((2, 3), keepdim=True)).sum(1, keepdim=True)
    normed = (t - t.mean()) / (t.std() + 1e-5)
    assert normed.std() < 0.7
    assert torch.allclose(gate(x), x * torch.sigmoid(gate.weight * normed + gate.bias), rtol=1e-7)


@pytest.mark.parametrize("channels, groups", [(8, 8), (24, 24), (40, 40), (64, 64), (144, 48), (672, 56), (1152, 64), (2304, 64)])
def test_the_papers_groups(channels, groups):
    gate = SGE(channels)
    assert gate.groups == groups and gate.weight.shape == gate.bias.shape == (1, groups, 1, 1)


@pytest.mark.parametrize("calm", [False, True])
def test_it_starts_at_sigmoid_of_one(calm):
    x = torch.randn(2, 24, 5, 4)
    assert torch.allclose(SGE(24, calm=calm)(x), x / (1 + math.exp(-1)))


def test_one_pixel_keeps_the_bias_and_a_finite_gradient():
    gate = stirred(24, groups=4)
    x = torch.randn(2, 24, 1, 1, requires_grad=True)
    y = gate(x)
    assert torch.allclose(y, x * torch.sigmoid(gate.bias.repeat_interleave(6, 1)))
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_weight_decay_leaves_it_alone():
    assert SGE(24).no_weight_decay() == {name for name, _ in SGE(24).named_parameters()}


@pytest.mark.parametrize("groups", [0, -1])
def test_no_group_is_refused(groups):
    with pytest.raises(ValueError, match=f"positive.* got {groups}"):
        SGE(24, groups=groups)

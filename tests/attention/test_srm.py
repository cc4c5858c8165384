"""`srm` against the paper's equations in plain loops, in train and eval, and the conventions of its deviation."""

import math
import statistics

import numpy as np
import pytest
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn

from zoo.attention import SRM


def stirred(channels: int) -> SRM:
    gate = SRM(channels)
    for tensor in (gate.weight, gate.bn.weight, gate.bn.bias, gate.bn.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(gate.bn.running_var, 0.5, 2)
    return gate


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_papers_equations(train, scale):
    """At the small scale the deviation is mostly eps, which therefore stands under the root."""
    gate = stirred(8).double().train(train)
    value = {key: tensor.detach().numpy().copy() for key, tensor in gate.state_dict().items()}
    x = torch.randn(3, 8, 5, 4, dtype=torch.float64) * scale
    picture = x.numpy()
    y = gate(x).detach().numpy()
    for c in range(8):
        z = []
        for b in range(3):
            values = [float(each) for each in picture[b, c].ravel()]
            w1, w2 = value["weight"][c]
            z.append(w1 * statistics.fmean(values) + w2 * math.sqrt(statistics.variance(values) + 1e-5))
        if train:
            mean, var = statistics.fmean(z), statistics.pvariance(z)
        else:
            mean, var = value["bn.running_mean"][c], value["bn.running_var"][c]
        for b in range(3):
            normed = (z[b] - mean) / math.sqrt(var + 1e-5) * value["bn.weight"][c] + value["bn.bias"][c]
            assert np.allclose(y[b, c], picture[b, c] / (1 + math.exp(-normed)), rtol=1e-10, atol=0)


def test_one_pixel_has_no_deviation():
    gate = stirred(8).double().eval()
    x = torch.randn(2, 8, 1, 1, dtype=torch.float64)
    z = gate.weight[:, 0] * x[:, :, 0, 0] + gate.weight[:, 1] * math.sqrt(1e-5)
    assert torch.allclose(gate(x), x * torch.sigmoid(gate.bn(z[:, :, None, None])), rtol=1e-12)


def test_no_channel_sees_another():
    gate = stirred(8).eval()
    x = torch.randn(2, 8, 5, 4)
    other = x.clone()
    other[:, 3] += 1
    assert (gate(x) != gate(other)).any((0, 2, 3)).nonzero().ravel().tolist() == [3]


@pytest.mark.parametrize("calm", [False, True])
def test_it_starts_at_one_half(calm):
    x = torch.randn(2, 24, 7, 5)
    gate = SRM(24, calm=calm)
    assert torch.equal(gate.train()(x), x / 2)
    assert torch.equal(gate.eval()(x), x / 2)


def test_four_numbers_a_channel_and_torchs_batch_norm():
    gate = SRM(1152)
    assert sum(parameter.numel() for parameter in gate.parameters()) == 4 * 1152
    assert gate.bn.eps == 1e-5 and gate.bn.momentum == 0.1


def test_float16_sums_of_squares_do_not_overflow():
    gate = stirred(8).eval()
    gate.bn.running_var.fill_(60_000)  # the gate must not saturate, or an infinite deviation would go unseen
    x = torch.empty(1, 8, 7, 7).uniform_(-900, 900)
    assert torch.var(x.half(), (2, 3)).isinf().any(), "what float32 is for"
    wanted = gate(x)
    assert torch.allclose(gate.half()(x.half()).float(), wanted, rtol=0.02, atol=2)


def test_frozen_batch_norm_stays_frozen():
    """timm's freezing replaces batch norms by other layers: the gate must call what stands there."""
    gate = freeze_batch_norm_2d(stirred(16)).train()
    before = {key: value.clone() for key, value in gate.state_dict().items()}
    gate(torch.randn(4, 16, 7, 7))
    assert all(torch.equal(value, before[key]) for key, value in gate.state_dict().items())

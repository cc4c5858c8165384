"""`nam` against the paper's equations in float64 NumPy, in both modes, and at a gamma of zero, where the paper's equation is 0 / 0."""

import numpy as np
import pytest
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn

from zoo.attention import NAM


def stirred(channels: int) -> NAM:
    gate = NAM(channels)
    for tensor in (gate.bn.weight, gate.bn.bias, gate.bn.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(gate.bn.running_var, 0.5, 2)
    return gate


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_the_papers_equations(train):
    gate = stirred(12).double().train(train)
    value = {key: tensor.detach().numpy().copy() for key, tensor in gate.state_dict().items()}
    gamma, beta = value["bn.weight"], value["bn.bias"]
    assert (gamma < 0).any(), "the weight is of the size of gamma, not of its sign"
    x = torch.randn(3, 12, 5, 4, dtype=torch.float64)
    picture = x.numpy()
    wanted = np.empty_like(picture)
    for c in range(12):
        plane = picture[:, c]
        mean, var = (plane.mean(), plane.var()) if train else (value["bn.running_mean"][c], value["bn.running_var"][c])
        z = gamma[c] * (plane - mean) / np.sqrt(var + 1e-5) + beta[c]
        share = abs(gamma[c]) / sum(abs(each) for each in gamma)
        wanted[:, c] = plane / (1 + np.exp(-share * z))
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-10)


def test_batch_norm_starts_as_usual():
    gate = NAM(24)
    assert gate.bn.eps == 1e-5 and gate.bn.momentum == 0.1
    assert gate.bn.weight.eq(1).all() and gate.bn.bias.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_calm_is_one_half_and_finite(dtype):
    gate = NAM(24, calm=True, dtype=dtype)
    x = torch.randn(2, 24, 7, 5, dtype=dtype)
    assert torch.equal(gate.train()(x), x / 2)
    assert torch.equal(gate.eval()(x), x / 2)


def test_calm_has_a_gradient_as_large_as_the_papers_start():
    """Shares are shares: at zero they are equal, as they are at one."""
    x, toward = torch.randn(2, 24, 7, 5), torch.randn(2, 24, 7, 5)
    sizes = []
    for calm in (True, False):
        gate = NAM(24, calm=calm)
        (gate(x) * toward).sum().backward()
        assert gate.bn.weight.grad.isfinite().all() and gate.bn.bias.grad.isfinite().all()
        sizes.append(gate.bn.weight.grad.norm())
    assert 0.5 < sizes[0] / sizes[1] < 2


def test_frozen_batch_norm_stays_frozen():
    gate = freeze_batch_norm_2d(stirred(16)).train()
    before = {key: value.clone() for key, value in gate.state_dict().items()}
    gate(torch.randn(4, 16, 7, 7))
    assert all(torch.equal(value, before[key]) for key, value in gate.state_dict().items())

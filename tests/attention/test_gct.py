"""`gct` against the paper's equations in plain loops, its start, large numbers in half precision, and what weight decay leaves alone."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import GCT


def stirred(channels: int, **kwargs) -> GCT:
    gate = GCT(channels, **kwargs)
    for parameter in gate.parameters():
        nn.init.normal_(parameter)
    return gate


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_the_papers_equations(eps):
    gate = stirred(24, eps=eps).double()
    alpha, gamma, beta = (parameter.detach().numpy().ravel() for parameter in (gate.alpha, gate.gamma, gate.beta))
    x = torch.randn(3, 24, 5, 4, dtype=torch.float64)
    picture = x.numpy()
    wanted = np.empty_like(picture)
    for b in range(3):
        embedding = [alpha[c] * math.sqrt(sum(value * value for value in picture[b, c].flat) + eps) for c in range(24)]
        size = math.sqrt(sum(e * e for e in embedding) / 24 + eps)
        for c in range(24):
            wanted[b, c] = picture[b, c] * (1 + math.tanh(gamma[c] * embedding[c] / size + beta[c]))
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("calm", [True, False])
def test_it_starts_as_the_identity(calm):
    gate = GCT(24, calm=calm)
    assert [(key, tuple(value.shape), value.unique().tolist()) for key, value in gate.named_parameters()] == [
        ("alpha", (1, 24, 1, 1), [1.0]),
        ("gamma", (1, 24, 1, 1), [0.0]),
        ("beta", (1, 24, 1, 1), [0.0]),
    ]
    assert gate.eps == 1e-5
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(gate(x), x)


def test_nothing_is_decayed():
    assert GCT(8).no_weight_decay() == {"alpha", "gamma", "beta"}


def test_a_map_of_zeros_has_a_gradient():
    """The root of a sum of squares has none at zero; eps stands below the root for that."""
    x = torch.zeros(2, 8, 3, 3, requires_grad=True)
    stirred(8)(x).sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_numbers_in_half_precision(dtype):
    exact = stirred(16).to(dtype).double()
    gate = GCT(16, dtype=dtype)
    gate.load_state_dict(exact.state_dict())
    x = (torch.randn(2, 16, 112, 112) * 1000).to(dtype)
    wanted = exact(x.double())
    assert torch.allclose(gate(x).double(), wanted, atol=0, rtol=0.01)
    assert x.abs().sum((2, 3)).isinf().any() or dtype == torch.bfloat16, "sums of this map do not fit into float16"

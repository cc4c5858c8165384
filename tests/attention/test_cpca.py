"""`cpca` against the authors' order in float64 NumPy: one shared 1x1 convolution thrice, two sigmoids added, strips in parallel."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import CPCA


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


def depthwise(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    (high, wide), (_, height, width) = kernel.shape[-2:], x.shape
    padded = np.pad(x, ((0, 0), (high // 2,) * 2, (wide // 2,) * 2))
    y = np.empty_like(x)
    for i in range(height):
        for j in range(width):
            y[:, i, j] = (padded[:, i : i + high, j : j + wide] * kernel[:, 0]).sum((1, 2)) + bias
    return y


def reference(gate: CPCA, picture: np.ndarray) -> np.ndarray:
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}

    def point(x):
        return np.tensordot(value["point.weight"][:, :, 0, 0], x, 1) + value["point.bias"][:, None, None]

    def layer(name, x):
        return depthwise(x, value[f"{name}.weight"], value[f"{name}.bias"])

    def mlp(vector):
        hidden = np.maximum(value["channel.fc1.weight"] @ vector + value["channel.fc1.bias"], 0)
        return value["channel.fc2.weight"] @ hidden + value["channel.fc2.bias"]

    result = np.empty_like(picture)
    for b, x in enumerate(picture):
        u = gelu(point(x))
        v = u * (sigmoid(mlp(u.mean((1, 2)))) + sigmoid(mlp(u.max((1, 2)))))[:, None, None]
        d = layer("local", v)
        a = point(d + sum(layer(f"strips.{n}.1", layer(f"strips.{n}.0", d)) for n in range(len(gate.strips))))
        result[b] = point(v * a)
    return result


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kwargs", [{}, {"kernel_sizes": (3, 9)}])
def test_the_authors_equations(kwargs, train):
    gate = CPCA(16, **kwargs).double().train(train)
    x = torch.randn(2, 16, 9, 6, dtype=torch.float64)
    assert np.allclose(gate(x).detach().numpy(), reference(gate, x.numpy()), rtol=0, atol=1e-10)


def test_the_papers_sizes():
    gate = CPCA(96)
    assert gate.channel.fc1.out_features == 24 and isinstance(gate.channel.act, nn.ReLU)
    assert gate.act.approximate == "none" and gate.local.kernel_size == (5, 5)
    assert [[conv.kernel_size for conv in strip] for strip in gate.strips] == [
        [(1, 7), (7, 1)],
        [(1, 11), (11, 1)],
        [(1, 21), (21, 1)],
    ]
    assert all(layer.bias is not None for layer in gate.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


def test_efficientnets_width():
    gate = CPCA(96, rd_ratio=0.25 / 6, act_layer=nn.SiLU)
    assert gate.channel.fc1.out_features == 4 and isinstance(gate.channel.act, nn.SiLU)


def test_calm_adds_its_input():
    x = torch.randn(2, 24, 7, 5)
    plain, calm = CPCA(24), CPCA(24, calm=True)
    assert torch.equal(calm(x), x)
    calm.load_state_dict(plain.state_dict())
    assert torch.allclose(calm(x), x + plain(x), atol=1e-6)


@pytest.mark.parametrize("kernel_sizes", [(7, 10, 21), (0,), (-3, 7)])
def test_even_kernels_are_refused(kernel_sizes):
    with pytest.raises(ValueError, match="odd numbers.* got"):
        CPCA(24, kernel_sizes=kernel_sizes)

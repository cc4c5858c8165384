"""`scsa` against the authors' order in float64 NumPy: shared convolutions, two norms, pooling that drops the rest, heads of channels."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import SCSA


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def group_norm(x: np.ndarray, groups: int, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    width = len(x) // groups
    y = np.empty_like(x)
    for g in range(0, len(x), width):
        part = x[g : g + width]
        y[g : g + width] = (part - part.mean()) / math.sqrt(part.var() + 1e-5)
    column = (-1,) + (1,) * (x.ndim - 1)
    return y * weight.reshape(column) + bias.reshape(column)


def reference(gate: SCSA, picture: np.ndarray, heads: int, window: int) -> np.ndarray:
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    batch, channels, height, width = picture.shape

    def along(strip):
        quarter, result = channels // 4, np.empty_like(strip)
        for c in range(channels):
            kernel = value[f"convs.{c // quarter}.weight"][c % quarter, 0]
            padded = np.pad(strip[c], len(kernel) // 2)
            for i in range(strip.shape[1]):
                result[c, i] = padded[i : i + len(kernel)] @ kernel + value[f"convs.{c // quarter}.bias"][c % quarter]
        return result

    result = np.empty_like(picture)
    for b, x in enumerate(picture):
        rows = sigmoid(group_norm(along(x.mean(2)), 4, value["norm_h.weight"], value["norm_h.bias"]))
        columns = sigmoid(group_norm(along(x.mean(1)), 4, value["norm_w.weight"], value["norm_w.bias"]))
        x = x * rows[:, :, None] * columns[:, None]

        high, wide = min(window, height), min(window, width)
        pooled = np.empty((channels, height // high, width // wide))
        for i in range(height // high):
            for j in range(width // wide):
                pooled[:, i, j] = x[:, i * high : (i + 1) * high, j * wide : (j + 1) * wide].mean((1, 2))
        z = group_norm(pooled, 1, value["norm.weight"], value["norm.bias"]).reshape(channels, -1)
        q, k, v = (z * value[f"{each}.weight"].reshape(-1, 1) for each in "qkv")
        d, gates = channels // heads, []
        for h in range(heads):
            mine = slice(h * d, (h + 1) * d)
            weights = np.exp(q[mine] @ k[mine].T / math.sqrt(d))
            gates.append((weights / weights.sum(1, keepdims=True) @ v[mine]).mean(1))  # the mean last, as the authors take it
        result[b] = x * sigmoid(np.concatenate(gates))[:, None, None]
    return result


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("height, width", [(14, 14), (16, 9), (7, 21), (5, 3), (1, 1), (3, 30)])
@pytest.mark.parametrize("kwargs, heads", [({}, 1), ({"heads": 8}, 8)])
def test_the_authors_equations(kwargs, heads, height, width, train):
    gate = SCSA(32, **kwargs).double().train(train)
    for norm in (gate.norm_h, gate.norm_w, gate.norm):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 32, height, width, dtype=torch.float64)
    assert np.allclose(gate(x).detach().numpy(), reference(gate, x.numpy(), heads, 7), rtol=0, atol=1e-10)


def test_other_arguments():
    gate = SCSA(24, heads=5, kernel_sizes=[5, 1, 3, 11], window_size=2).double()
    x = torch.randn(2, 24, 5, 6, dtype=torch.float64)
    assert np.allclose(gate(x).detach().numpy(), reference(gate, x.numpy(), 4, 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels", [8, 16, 24, 40, 144, 2304])
def test_the_authors_numbers(channels):
    gate = SCSA(channels, device="meta")
    assert gate.heads == 1 and gate.scale == channels**-0.5 and gate.window_size == 7
    assert [conv.kernel_size for conv in gate.convs] == [(3,), (5,), (7,), (9,)]
    assert all(conv.groups == channels // 4 and conv.bias is not None for conv in gate.convs)
    assert [norm.num_groups for norm in (gate.norm_h, gate.norm_w, gate.norm)] == [4, 4, 1]
    assert all(layer.bias is None and layer.weight.shape == (channels, 1, 1, 1) for layer in (gate.q, gate.k, gate.v))


@pytest.mark.parametrize(
    "channels, kwargs, message",
    [
        (30, {}, "multiple of 4, got 30"),
        (24, {"kernel_sizes": (3, 5, 7)}, "four odd numbers"),
        (24, {"kernel_sizes": (3, 5, 7, 8)}, "four odd numbers"),
        (24, {"heads": 0}, "positive numbers.* got 0 and 7"),
        (24, {"window_size": 0}, "positive numbers.* got 1 and 0"),
    ],
)
def test_bad_arguments_are_refused(channels, kwargs, message):
    with pytest.raises(ValueError, match=message):
        SCSA(channels, **kwargs)


def test_calm_is_one_eighth():
    x = torch.randn(2, 24, 7, 5)
    assert torch.allclose(SCSA(24, calm=True)(x), x / 8, rtol=0, atol=1e-6)

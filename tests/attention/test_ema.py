"""`ema` against the paper's equations in NumPy, group by group; the groups at EfficientNet's widths; what the norm does to the weights."""

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import EMA


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def reference(gate: EMA, picture: np.ndarray, groups: int) -> np.ndarray:
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    batch, channels, height, width = picture.shape
    c = channels // groups
    pointwise, bias = value["conv1x1.weight"][:, :, 0, 0], value["conv1x1.bias"]
    result = np.empty_like(picture)
    for b in range(batch):
        for g in range(groups):
            x = picture[b, g * c : (g + 1) * c]
            strips = np.concatenate([x.mean(2), x.mean(1)], 1)  # [c, H + W], as the paper draws it
            strips = sigmoid(pointwise @ strips + bias[:, None])
            x1 = x * strips[:, :height, None] * strips[:, None, height:]
            mean, var = x1.mean((1, 2), keepdims=True), x1.var((1, 2), keepdims=True)
            x1 = (x1 - mean) / np.sqrt(var + 1e-5) * value["norm.weight"][:, None, None] + value["norm.bias"][:, None, None]

            x2 = np.empty_like(x)
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
            for o in range(c):
                for i in range(height):
                    for j in range(width):
                        x2[o, i, j] = (padded[:, i : i + 3, j : j + 3] * value["conv3x3.weight"][o]).sum() + value["conv3x3.bias"][o]

            cross = softmax(x1.mean((1, 2))) @ x2.reshape(c, -1) + softmax(x2.mean((1, 2))) @ x1.reshape(c, -1)
            result[b, g * c : (g + 1) * c] = x * sigmoid(cross).reshape(height, width)
    return result


def stirred(channels: int, **kwargs) -> EMA:
    gate = EMA(channels, **kwargs)
    nn.init.normal_(gate.norm.weight)
    nn.init.normal_(gate.norm.bias)
    return gate.double()


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("channels, groups", [(96, 32), (48, 24), (64, 4), (8, 8)])
def test_the_papers_equations(channels, groups, train):
    gate = stirred(channels, groups=4 if groups == 4 else 32).train(train)
    x = torch.randn(2, channels, 5, 4, dtype=torch.float64)
    assert np.allclose(gate(x).detach().numpy(), reference(gate, x.numpy(), groups), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "channels, groups", [(8, 8), (16, 16), (24, 24), (32, 32), (40, 20), (64, 32), (144, 24), (240, 30), (672, 32), (1152, 32), (2304, 32)]
)
def test_the_papers_groups_or_the_nearest_below(channels, groups):
    gate = EMA(channels, device="meta")
    c = channels // groups
    assert gate.groups == groups
    assert {key: tuple(value.shape) for key, value in gate.state_dict().items()} == {
        "conv1x1.weight": (c, c, 1, 1),
        "conv1x1.bias": (c,),
        "conv3x3.weight": (c, c, 3, 3),
        "conv3x3.bias": (c,),
        "norm.weight": (c,),
        "norm.bias": (c,),
    }
    assert gate.norm.num_groups == c and gate.norm.eps == 1e-5


def test_one_map_a_group():
    gate = stirred(96)
    x = torch.randn(2, 96, 5, 4, dtype=torch.float64)
    maps = (gate(x) / x).unflatten(1, (32, 3))
    assert torch.allclose(maps, maps[:, :, :1])
    assert not torch.allclose(maps[:, 0], maps[:, 1], atol=1e-3)


@pytest.mark.parametrize("groups", [0, -1])
def test_no_groups_are_refused(groups):
    with pytest.raises(ValueError, match=f"positive number.* got {groups}"):
        EMA(24, groups=groups)


def test_calm_is_one_half():
    x = torch.randn(2, 96, 7, 5)
    assert torch.allclose(EMA(96, calm=True)(x), x / 2, atol=1e-6)


def test_calm_filters_do_not_stay_equal():
    gate = EMA(96, calm=True)
    optimizer = torch.optim.SGD(gate.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        (gate(torch.randn(4, 96, 6, 5)) * torch.randn(4, 96, 6, 5)).mean().backward()
        optimizer.step()
    first, second, third = gate.conv3x3.weight
    assert not torch.equal(first, second) and not torch.equal(second, third)

"""`triplet` against the authors' rotations in float64 NumPy loops, in train and eval mode."""

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import TripletAttention

# Where each gate pools: axes of [B, C, H, W] put in the order (batch, pooled, rows, columns)
TURNS = {"cw": (0, 2, 1, 3), "hc": (0, 3, 2, 1), "hw": (0, 1, 2, 3)}


def plane(turned: np.ndarray, value: dict, name: str, train: bool) -> np.ndarray:
    """What the authors' gate makes of a map that is already turned."""
    kernel = value[f"{name}.conv.weight"][0]
    size = kernel.shape[-1]
    pooled = np.stack([turned.max(1), turned.mean(1)], 1)
    padded = np.pad(pooled, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    conv = np.empty(pooled[:, 0].shape)
    for i in range(conv.shape[1]):
        for j in range(conv.shape[2]):
            conv[:, i, j] = (padded[:, :, i : i + size, j : j + size] * kernel).sum((1, 2, 3))
    mean, var = (conv.mean(), conv.var()) if train else (value[f"{name}.bn.running_mean"], value[f"{name}.bn.running_var"])
    normed = (conv - mean) / np.sqrt(var + 1e-5) * value[f"{name}.bn.weight"] + value[f"{name}.bn.bias"]
    return turned / (1 + np.exp(-normed[:, None]))


def reference(gate: TripletAttention, picture: np.ndarray, train: bool) -> np.ndarray:
    value = {key: tensor.clone().numpy() for key, tensor in gate.state_dict().items()}
    # each of the turns is its own inverse
    return sum(plane(picture.transpose(turn), value, name, train).transpose(turn) for name, turn in TURNS.items()) / 3


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kernel_size", [7, 3])
def test_the_papers_equations(train, kernel_size):
    gate = TripletAttention(24, kernel_size=kernel_size)
    for each in (gate.cw, gate.hc, gate.hw):
        for tensor in (each.bn.weight, each.bn.bias, each.bn.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(each.bn.running_var, 0.5, 2)
    gate = gate.double().train(train)
    x = torch.randn(3, 24, 9, 5, dtype=torch.float64)
    wanted = reference(gate, x.numpy(), train)
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


def test_the_authors_numbers():
    gate = TripletAttention(144)
    assert sum(parameter.numel() for parameter in gate.parameters()) == 3 * (2 * 7 * 7 + 2)
    for each in (gate.cw, gate.hc, gate.hw):
        assert each.conv.kernel_size == (7, 7) and each.conv.bias is None
        assert each.bn.eps == 1e-5 and each.bn.momentum == 0.01


@pytest.mark.parametrize("kernel_size", [2, 0, -3])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(ValueError, match=f"odd number.* got {kernel_size}"):
        TripletAttention(24, kernel_size=kernel_size)


def test_calm_is_one_half():
    x = torch.randn(2, 24, 7, 5)
    assert torch.allclose(TripletAttention(24, calm=True)(x), x / 2, atol=1e-6)

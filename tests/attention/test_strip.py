"""`strip` against the paper's equations in float64 NumPy loops, in train and eval mode."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import StripPooling


def strip_term(strip: np.ndarray, value: dict, side: str, train: bool) -> np.ndarray:
    """BN(conv(strip)); strip [B, C, L], the kernel [C, C, k]."""
    kernel = value[f"conv_{side}.weight"].squeeze({"h": 3, "w": 2}[side])
    length, size = strip.shape[2], kernel.shape[2]
    conv = np.zeros_like(strip)
    for b in range(len(strip)):
        for i in range(length):
            for j in range(size):
                position = i + j - size // 2
                if 0 <= position < length:
                    conv[b, :, i] += kernel[:, :, j] @ strip[b, :, position]
    mean, var = value[f"bn_{side}.running_mean"], value[f"bn_{side}.running_var"]
    if train:
        mean, var = conv.mean((0, 2)), conv.var((0, 2))
    weight, bias = value[f"bn_{side}.weight"], value[f"bn_{side}.bias"]
    return (conv - mean[:, None]) / np.sqrt(var[:, None] + 1e-5) * weight[:, None] + bias[:, None]


def reference(gate: StripPooling, picture: np.ndarray, train: bool) -> np.ndarray:
    """Equations 1-4, one pixel at a time."""
    value = {key: tensor.clone().numpy() for key, tensor in gate.state_dict().items()}
    rows = strip_term(picture.mean(3), value, "h", train)
    columns = strip_term(picture.mean(2), value, "w", train)
    gated = np.empty_like(picture)
    for i in range(picture.shape[2]):
        for j in range(picture.shape[3]):
            hidden = np.maximum(rows[:, :, i] + columns[:, :, j], 0)
            logit = hidden @ value["fuse.weight"][:, :, 0, 0].T + value["fuse.bias"]
            gated[:, :, i, j] = picture[:, :, i, j] / (1 + np.exp(-logit))
    return gated


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_the_papers_equations(train, kernel_size):
    gate = StripPooling(16, kernel_size=kernel_size)
    for bn in (gate.bn_h, gate.bn_w):
        for tensor in (bn.weight, bn.bias, bn.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(bn.running_var, 0.5, 2)
    gate = gate.double().train(train)
    x = torch.randn(3, 16, 7, 4, dtype=torch.float64)
    wanted = reference(gate, x.numpy(), train)
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


def test_the_authors_layers():
    gate = StripPooling(24)
    assert gate.conv_h.weight.shape == (24, 24, 3, 1) and gate.conv_w.weight.shape == (24, 24, 1, 3)
    assert gate.conv_h.bias is None and gate.conv_w.bias is None and gate.fuse.bias.shape == (24,)
    assert gate.bn_h.eps == gate.bn_w.eps == 1e-5 and gate.bn_h.momentum == gate.bn_w.momentum == 0.1
    assert isinstance(gate.act, nn.ReLU)
    assert isinstance(StripPooling(24, act_layer=nn.SiLU).act, nn.SiLU)


def test_the_authors_start():
    """A normal of variance 2 / (outputs times kernel)."""
    gate = StripPooling(144)
    for conv in (gate.conv_h, gate.conv_w, gate.fuse):
        taps = math.prod(conv.kernel_size)
        assert math.isclose(conv.weight.detach().std(), math.sqrt(2 / (144 * taps)), rel_tol=0.03)


@pytest.mark.parametrize("kernel_size", [2, 0, -3])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(ValueError, match=f"odd number.* got {kernel_size}"):
        StripPooling(24, kernel_size=kernel_size)


def test_calm_is_one_half():
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(StripPooling(24, calm=True)(x), x / 2)

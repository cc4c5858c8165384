"""`caa` against the authors' layers in float64 NumPy loops, in train and eval mode, with and without batch norm and activation."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import CAA


def silu(x):
    return x / (1 + np.exp(-x))


def slide(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Depthwise: [B, C, H, W] with [C, kh, kw], zeros outside."""
    _, _, height, width = picture.shape
    kh, kw = kernel.shape[1:]
    padded = np.pad(picture, ((0, 0), (0, 0), (kh // 2,) * 2, (kw // 2,) * 2))
    return np.stack(
        [np.stack([(padded[:, :, i : i + kh, j : j + kw] * kernel).sum((2, 3)) for j in range(width)], 2) for i in range(height)], 2
    )


def norm(picture: np.ndarray, value: dict, name: str, train: bool) -> np.ndarray:
    mean, var = value[f"{name}.running_mean"], value[f"{name}.running_var"]
    if train:
        mean, var = picture.mean((0, 2, 3)), picture.var((0, 2, 3))
    scale = value[f"{name}.weight"] / np.sqrt(var + 1e-3)
    return (picture - mean[:, None, None]) * scale[:, None, None] + value[f"{name}.bias"][:, None, None]


def reference(gate: CAA, picture: np.ndarray, train: bool, plain: bool) -> np.ndarray:
    value = {key: tensor.clone().numpy() for key, tensor in gate.state_dict().items()}

    def mix(a, number):
        a = np.einsum("oi,bihw->bohw", value[f"conv{number}.weight"][:, :, 0, 0], a)
        return a + value[f"conv{number}.bias"][:, None, None] if plain else silu(norm(a, value, f"bn{number}", train))

    a = slide(picture, np.full((picture.shape[1], 7, 7), 1 / 49))  # zeros outside count
    a = mix(a, 1)
    a = slide(a, value["conv_w.weight"][:, 0]) + value["conv_w.bias"][:, None, None]
    a = slide(a, value["conv_h.weight"][:, 0]) + value["conv_h.bias"][:, None, None]
    return picture / (1 + np.exp(-mix(a, 2)))


def stirred(channels: int, **kwargs) -> CAA:
    gate = CAA(channels, **kwargs)
    for name, tensor in gate.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            nn.init.normal_(tensor)
    return gate


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kwargs", [{}, {"kernel_size": 5}, {"plain": True}], ids=str)
def test_the_authors_layers(train, kwargs):
    gate = stirred(8, **kwargs).double().train(train)
    x = torch.randn(2, 8, 13, 6, dtype=torch.float64)
    wanted = reference(gate, x.numpy(), train, kwargs.get("plain", False))
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


def test_the_authors_numbers():
    gate = CAA(24)
    assert gate.conv_w.weight.shape == (24, 1, 1, 11) and gate.conv_h.weight.shape == (24, 1, 11, 1)
    assert gate.bn1.eps == gate.bn2.eps == 1e-3 and gate.bn1.momentum == gate.bn2.momentum == 0.03
    assert gate.conv1.bias is None and gate.conv2.bias is None
    assert not gate.conv_w.bias.any() and not gate.conv_h.bias.any(), "the authors start biases at zero"
    assert isinstance(gate.act1, nn.SiLU) and isinstance(gate.act2, nn.SiLU)
    gate = CAA(24, act_layer=nn.ReLU6)
    assert isinstance(gate.act1, nn.ReLU6) and isinstance(gate.act2, nn.ReLU6)


def test_plain_has_biases_instead():
    keys = {key for key, _ in CAA(24, plain=True).named_parameters()}
    assert keys == {f"{conv}.{part}" for conv in ("conv1", "conv_w", "conv_h", "conv2") for part in ("weight", "bias")}


def test_how_far_it_sees():
    """Three pixels of the pool and five of the strip on each side."""
    gate = stirred(8, plain=True).double().eval()
    x = torch.randn(1, 8, 1, 24, dtype=torch.float64).requires_grad_()
    (grad,) = torch.autograd.grad(gate(x)[0, :, 0, 0].sum(), x)
    assert grad[0, :, 0, 8].any() and not grad[0, :, 0, 9:].any()


@pytest.mark.parametrize("kernel_size", [2, 0, -3])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(ValueError, match=f"odd number.* got {kernel_size}"):
        CAA(24, kernel_size=kernel_size)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("kwargs, level", [({}, sigmoid(sigmoid(1))), ({"act_layer": "relu"}, sigmoid(1)), ({"plain": True}, 0.5)], ids=str)
def test_calm(kwargs, level):
    """sigmoid(act(1)), and awake whatever the activation."""
    gate = CAA(24, calm=True, **kwargs)
    x = torch.randn(2, 24, 7, 5)
    assert torch.allclose(gate(x), x * level, atol=1e-6)
    gate(x).square().sum().backward()
    last = gate.conv2 if "plain" in kwargs else gate.bn2
    assert last.weight.grad.any()

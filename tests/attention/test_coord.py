"""`coord` against the paper's equations in float64 NumPy (as the authors compute them), and timm's class with biases."""

import numpy as np
import pytest
import torch
from timm.layers.coord_attn import CoordAttn
from torch import nn

from zoo.attention import CoordAttention


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(gate: CoordAttention, picture: np.ndarray, train: bool) -> np.ndarray:
    """Equations 4-9, position by position."""
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    batch, channels, height, width = picture.shape

    def layer(name, vector):
        return value[f"{name}.weight"][:, :, 0, 0] @ vector + value[f"{name}.bias"]

    narrow = np.empty((batch, height + width, len(value["conv1.bias"])))
    for b in range(batch):
        for i in range(height):
            narrow[b, i] = layer("conv1", np.array([picture[b, c, i].sum() / width for c in range(channels)]))
        for j in range(width):
            narrow[b, height + j] = layer("conv1", np.array([picture[b, c, :, j].sum() / height for c in range(channels)]))
    if train:
        mean, var = narrow.mean((0, 1)), narrow.var((0, 1))
    else:
        mean, var = value["bn1.running_mean"], value["bn1.running_var"]
    f = (narrow - mean) / np.sqrt(var + 1e-5) * value["bn1.weight"] + value["bn1.bias"]
    f = f * np.clip(f + 3, 0, 6) / 6
    y = np.empty_like(picture)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                y[b, :, i, j] = picture[b, :, i, j] * sigmoid(layer("conv_h", f[b, i])) * sigmoid(layer("conv_w", f[b, height + j]))
    return y


def stirred(channels: int, **kwargs) -> CoordAttention:
    gate = CoordAttention(channels, **kwargs)
    for tensor in (gate.bn1.weight, gate.bn1.bias, gate.bn1.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(gate.bn1.running_var, 0.5, 2)
    return gate


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [(5, 4), (9, 8), (1, 3)])
def test_the_papers_equations(train, size):
    gate = stirred(32).double().train(train)
    x = torch.randn(3, 32, *size, dtype=torch.float64)
    wanted = reference(gate, x.numpy(), train)
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("channels", [24, 64, 672])
def test_equals_timms_with_biases(channels, train):
    ours = stirred(channels).train(train)
    timms = CoordAttn(channels, rd_channels=ours.conv1.out_channels, bias=True).train(train)
    timms.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, channels, 7, 5)
    assert torch.allclose(ours(x), timms(x), atol=1e-6)
    for key, value in timms.state_dict().items():
        assert torch.allclose(ours.state_dict()[key].float(), value.float(), atol=1e-6), key


def test_rows_and_columns_are_not_swapped():
    gate = CoordAttention(16).eval()
    nn.init.zeros_(gate.conv_w.weight)
    nn.init.zeros_(gate.conv_w.bias)
    multiplier = gate(torch.ones(1, 16, 3, 4) * torch.tensor([1.0, 5.0, 9.0])[:, None]) / torch.tensor([1.0, 5.0, 9.0])[:, None]
    assert torch.allclose(multiplier, multiplier[..., :1].expand_as(multiplier)), "one value a row"
    assert not torch.allclose(multiplier[:, :, 0], multiplier[:, :, 1], atol=1e-3)


@pytest.mark.parametrize("channels", [8, 24, 32, 256, 288, 672, 1152, 2304])
def test_the_authors_width(channels):
    gate = CoordAttention(channels)
    assert gate.conv1.out_channels == max(8, channels // 32)
    assert isinstance(gate.act, nn.Hardswish)
    assert gate.bn1.eps == 1e-5 and gate.bn1.momentum == 0.1


@pytest.mark.parametrize("channels, entering", [(1152, 192), (96, 16), (32, 32), (672, 112), (2304, 384)])
def test_efficientnets_width(channels, entering):
    assert CoordAttention(channels, rd_ratio=0.25 * entering / channels).conv1.out_channels == max(8, entering // 4)


def test_calm_is_one_quarter():
    x = torch.randn(2, 24, 7, 5)
    gate = CoordAttention(24, calm=True)
    assert torch.equal(gate.train()(x), x / 4)
    assert torch.equal(gate.eval()(x), x / 4)


def test_calm_wakes():
    gate = CoordAttention(24, calm=True)
    gate(torch.randn(2, 24, 7, 5)).square().sum().backward()
    assert gate.conv_h.weight.grad.any() and gate.conv_w.weight.grad.any()


def test_a_row_and_a_column_of_one_pixel_train():
    """Two values a channel: the smallest batch that a batch norm has statistics for."""
    gate = CoordAttention(16).train()
    x = torch.randn(1, 16, 1, 1)
    assert gate(x).isfinite().all()
    assert all(value.isfinite().all() for value in gate.state_dict().values())

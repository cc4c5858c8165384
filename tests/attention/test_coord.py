"""`coord` against the paper's equations in float64 NumPy, and timm's class where it can be given the authors' widths."""

import numpy as np
import pytest
import torch
from timm.layers.coord_attn import CoordAttn
from torch import nn

from zoo.attention import CoordAttention


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(gate: CoordAttention, picture: np.ndarray, train: bool) -> np.ndarray:
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    batch, channels, height, width = picture.shape
    hidden = np.empty((batch, value["conv1.bias"].size, height + width))
    for b in range(batch):
        for i in range(height):  # equation 4: one row, over the width
            pooled = np.array([picture[b, c, i].sum() / width for c in range(channels)])
            hidden[b, :, i] = value["conv1.weight"][:, :, 0, 0] @ pooled + value["conv1.bias"]
        for j in range(width):  # equation 5: one column, over the height
            pooled = np.array([picture[b, c, :, j].sum() / height for c in range(channels)])
            hidden[b, :, height + j] = value["conv1.weight"][:, :, 0, 0] @ pooled + value["conv1.bias"]
    mean, var = (hidden.mean((0, 2)), hidden.var((0, 2))) if train else (value["bn1.running_mean"], value["bn1.running_var"])
    hidden = (hidden - mean[:, None]) / np.sqrt(var + 1e-5)[:, None] * value["bn1.weight"][:, None] + value["bn1.bias"][:, None]
    hidden = hidden * np.clip(hidden + 3, 0, 6) / 6  # h-swish
    y = np.empty_like(picture)
    for b in range(batch):
        rows = sigmoid(value["conv_h.weight"][:, :, 0, 0] @ hidden[b, :, :height] + value["conv_h.bias"][:, None])
        columns = sigmoid(value["conv_w.weight"][:, :, 0, 0] @ hidden[b, :, height:] + value["conv_w.bias"][:, None])
        for i in range(height):
            for j in range(width):
                y[b, :, i, j] = picture[b, :, i, j] * rows[:, i] * columns[:, j]  # equation 9
    return y


def stirred(channels: int, **kwargs) -> CoordAttention:
    gate = CoordAttention(channels, **kwargs)
    for tensor in (gate.bn1.weight, gate.bn1.bias, gate.bn1.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(gate.bn1.running_var, 0.5, 2)
    return gate


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [(7, 7), (3, 5), (9, 11), (2, 40)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_the_papers_equations(layout, size, train):
    gate = stirred(24).double().train(train)
    x = torch.randn(3, 24, *size, dtype=torch.float64)
    wanted = reference(gate, x.numpy(), train)
    assert np.allclose(gate(x.contiguous(memory_format=layout)).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("channels, size", [(64, 9), (480, 14), (512, 28), (1152, 7)])
def test_equals_timms_at_the_authors_width(channels, size, train):
    timms = CoordAttn(channels, rd_channels=max(8, channels // 32), bias=True).train(train)
    ours = stirred(channels).train(train)
    timms.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(3, channels, size, size)
    assert torch.allclose(ours(x), timms(x), atol=1e-5)


@pytest.mark.parametrize("channels", [8, 32, 64, 144, 256, 480, 1152, 2304])
def test_the_authors_width(channels):
    gate = CoordAttention(channels)
    assert gate.conv1.out_channels == max(8, channels // 32)
    assert isinstance(gate.act, nn.Hardswish) and gate.bn1.eps == 1e-5 and gate.bn1.momentum == 0.1


@pytest.mark.parametrize("channels, entering", [(1152, 192), (96, 16), (32, 32), (672, 112), (176, 120)])
def test_efficientnets_width(channels, entering):
    gate = CoordAttention(channels, rd_ratio=0.25 * entering / channels, act_layer=nn.SiLU)
    assert gate.conv1.out_channels == max(8, entering // 4) and isinstance(gate.act, nn.SiLU)


def test_calm_is_one_quarter():
    x = torch.randn(2, 24, 7, 5)
    gate = CoordAttention(24, calm=True)
    assert torch.equal(gate.train()(x), x / 4) and torch.equal(gate.eval()(x), x / 4)


def test_a_row_and_a_column_are_told_apart():
    """Turning the picture and swapping the two layers turns the result; turning alone does not."""
    gate = stirred(24).double().eval()
    x = torch.randn(2, 24, 6, 5, dtype=torch.float64)
    y, turned = gate(x), gate(x.transpose(2, 3)).transpose(2, 3)
    assert not torch.allclose(y, turned)
    gate.conv_h, gate.conv_w = gate.conv_w, gate.conv_h
    assert torch.allclose(y, gate(x.transpose(2, 3)).transpose(2, 3))

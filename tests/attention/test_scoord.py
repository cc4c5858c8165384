"""`scoord` against its equations in float64 NumPy, and stock timm with the same weights, gate and network."""

import numpy as np
import pytest
import timm
import torch
from timm.layers.coord_attn import SimpleCoordAttn
from torch import nn

import zoo  # noqa: F401  (registers effnet_scoord_b0)
from zoo.attention import SimpleCoordAttention


def reference(gate: SimpleCoordAttention, picture: np.ndarray) -> np.ndarray:
    """One row, then one column at a time."""
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    batch, _, height, width = picture.shape

    def term(strip, head):
        hidden = value["fc1.weight"] @ strip + value["fc1.bias"]
        hidden = hidden / (1 + np.exp(-hidden))
        return value[f"{head}.weight"] @ hidden + value[f"{head}.bias"]

    gated = np.empty_like(picture)
    for b in range(batch):
        rows = [term(picture[b, :, i].mean(1), "fc_h") for i in range(height)]
        columns = [term(picture[b, :, :, j].mean(1), "fc_w") for j in range(width)]
        for i in range(height):
            for j in range(width):
                gated[b, :, i, j] = picture[b, :, i, j] / (1 + np.exp(-rows[i] - columns[j]))
    return gated


def test_the_equations():
    gate = SimpleCoordAttention(24).double()
    x = torch.randn(3, 24, 7, 5, dtype=torch.float64)
    assert np.allclose(gate(x).detach().numpy(), reference(gate, x.numpy()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [8, 24, 144, 672])
def test_timm_loads_it(channels):
    timms, ours = SimpleCoordAttn(channels), SimpleCoordAttention(channels)
    timms.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, channels, 7, 5)
    assert torch.equal(ours(x), timms(x))


def test_stock_timm_loads_the_network():
    ours = timm.create_model("effnet_scoord_b0").eval()
    timms = timm.create_model("efficientnet_b0", se_layer="scoord").eval()
    timms.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(1, 3, 32, 32)
    assert torch.allclose(ours(x), timms(x), atol=1e-6)


@pytest.mark.parametrize("channels, width", [(8, 8), (64, 8), (144, 24), (672, 112), (1152, 192)])
def test_width(channels, width):
    assert SimpleCoordAttention(channels).fc1.out_features == width


def test_activation():
    assert isinstance(SimpleCoordAttention(24).act, nn.SiLU)
    assert isinstance(SimpleCoordAttention(24, act_layer="relu").act, nn.ReLU)
    assert isinstance(SimpleCoordAttention(24, act_layer=nn.ReLU6).act, nn.ReLU6)


def test_calm_is_one_half():
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(SimpleCoordAttention(24, calm=True)(x), x / 2)

"""`gc` against the paper's equations in float64 NumPy, and timm's class with the authors' epsilon."""

import numpy as np
import pytest
import torch
from timm.layers import GlobalContext as TimmsContext
from torch import nn

from zoo.attention import GlobalContext


def transform(gate: nn.Module, picture: np.ndarray) -> np.ndarray:
    """One picture [C, H, W] -> t [C]."""
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    channels, height, width = picture.shape
    w_k = value["mask.weight"][0, :, 0, 0]
    logit = np.array([[(w_k * picture[:, i, j]).sum() + value["mask.bias"][0] for j in range(width)] for i in range(height)])
    attention = np.exp(logit - logit.max())
    attention /= attention.sum()
    context = np.array([(attention * picture[c]).sum() for c in range(channels)])
    hidden = value["transform.fc1.weight"][:, :, 0, 0] @ context + value["transform.fc1.bias"]
    normed = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
    normed = normed * value["transform.norm.weight"][:, 0, 0] + value["transform.norm.bias"][:, 0, 0]
    return value["transform.fc2.weight"][:, :, 0, 0] @ np.maximum(normed, 0) + value["transform.fc2.bias"]


def stirred(channels: int, **kwargs) -> GlobalContext:
    gate = GlobalContext(channels, **kwargs)
    for parameter in gate.parameters():
        nn.init.normal_(parameter, std=0.5)
    return gate


@pytest.mark.parametrize("size", [(5, 4), (9, 8), (1, 1)])
def test_the_papers_equations(size):
    gate = stirred(64).double()
    x = torch.randn(3, 64, *size, dtype=torch.float64)
    wanted = np.stack([picture / (1 + np.exp(-transform(gate, picture)))[:, None, None] for picture in x.numpy()])
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [32, 64, 672])
def test_equals_timms_with_the_authors_epsilon(channels):
    ours = stirred(channels)
    timms = TimmsContext(channels, rd_channels=ours.transform.fc1.out_channels)
    assert timms.mlp_scale.norm.eps == 1e-6
    timms.mlp_scale.norm.eps = 1e-5
    state = {key.replace("transform.", "mlp_scale.").replace("mask.", "conv_attn."): value for key, value in ours.state_dict().items()}
    timms.load_state_dict({key: value.flatten() if ".norm." in key else value for key, value in state.items()}, strict=True)
    x = torch.randn(2, channels, 7, 5)
    assert torch.allclose(ours(x), timms(x), atol=1e-5)


@pytest.mark.parametrize("channels", [8, 16, 24, 64, 144, 1152])
def test_the_authors_width(channels):
    gate = GlobalContext(channels)
    assert gate.transform.fc1.out_channels == max(1, channels // 16)
    assert gate.transform.norm.normalized_shape == (max(1, channels // 16), 1, 1) and gate.transform.norm.eps == 1e-5
    assert isinstance(gate.transform.act, nn.ReLU)


@pytest.mark.parametrize("channels, entering", [(1152, 192), (96, 16), (32, 32), (672, 112)])
def test_efficientnets_width(channels, entering):
    assert GlobalContext(channels, rd_ratio=0.25 * entering / channels).transform.fc1.out_channels == entering // 4


@pytest.mark.parametrize("calm", [True, False])
def test_the_start_is_one_half(calm):
    x = torch.randn(2, 24, 7, 5)
    gate = GlobalContext(24, calm=calm)
    assert torch.equal(gate(x), x / 2)
    gate(x).square().sum().backward()
    assert gate.transform.fc2.bias.grad.any(), "and it wakes"


def test_the_authors_start():
    """Kaiming, fan in, ReLU: a standard deviation of sqrt(2 / C)."""
    gate = GlobalContext(2304)
    assert abs(float(gate.mask.weight.std()) * (2304 / 2) ** 0.5 - 1) < 0.1
    assert not gate.mask.bias.any() and not gate.transform.fc2.weight.any() and not gate.transform.fc2.bias.any()
    assert (gate.transform.norm.weight == 1).all() and not gate.transform.norm.bias.any()


def test_a_bright_pixel_draws_the_attention():
    """What a mean drowns: with a steep mask the context is the one pixel that the mask likes."""
    gate = stirred(32)
    x = torch.randn(1, 32, 20, 20)
    with torch.no_grad():
        liked = 40 * gate.mask.weight[0] / gate.mask.weight.norm()
        x[:, :, 3:4, 5:6] = liked
        t = torch.sigmoid(gate.transform(liked[None]))
    assert torch.allclose(gate(x), x * t, atol=1e-4)


def test_a_mask_of_large_numbers_stays_finite():
    gate = GlobalContext(16)
    nn.init.constant_(gate.mask.weight, 100)
    x = 50 * torch.randn(2, 16, 7, 7)
    assert gate(x).isfinite().all()

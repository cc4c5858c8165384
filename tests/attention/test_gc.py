"""`gc` against the paper's equation in float64 NumPy, and timm's class with the authors' epsilon."""

import numpy as np
import pytest
import torch
from timm.layers import GlobalContext as Timms
from torch import nn

from zoo.attention import GlobalContext


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def context(gate: nn.Module, picture: np.ndarray) -> np.ndarray:
    """W2 relu(LN(W1 c + b1)) + b2 of one picture, [C, H, W]."""
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    channels, height, width = picture.shape
    logits = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            logits[i, j] = value["mask.weight"][0, :, 0, 0] @ picture[:, i, j] + value["mask.bias"][0]
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    pooled = np.array([(weights * picture[c]).sum() for c in range(channels)])
    hidden = value["transform.fc1.weight"][:, :, 0, 0] @ pooled + value["transform.fc1.bias"]
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
    hidden = hidden * value["transform.norm.weight"][:, 0, 0] + value["transform.norm.bias"][:, 0, 0]
    return value["transform.fc2.weight"][:, :, 0, 0] @ np.maximum(hidden, 0) + value["transform.fc2.bias"]


def stirred(gate: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return gate


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("grad", [True, False])
def test_the_papers_equation(grad, batch):
    gate = stirred(GlobalContext(48)).double()
    x = torch.randn(batch, 48, 5, 4, dtype=torch.float64)
    wanted = np.stack([one * sigmoid(context(gate, one))[:, None, None] for one in x.numpy()])
    with torch.set_grad_enabled(grad):
        assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels, size", [(64, 9), (1152, 7), (144, 28)])
def test_equals_timms_with_the_authors_epsilon(channels, size):
    timms, ours = Timms(channels, rd_channels=channels // 16), stirred(GlobalContext(channels))
    timms.mlp_scale.norm.eps = 1e-5
    timms.mlp_scale.norm._fast_norm = False
    state = {key: value.flatten() if ".norm." in key else value for key, value in ours.state_dict().items()}
    timms.load_state_dict({key.replace("mask", "conv_attn").replace("transform", "mlp_scale"): value for key, value in state.items()})
    x = torch.randn(3, channels, size, size)
    assert torch.allclose(ours(x), timms(x), atol=1e-5)


def test_the_authors_numbers():
    gate = GlobalContext(256)
    assert gate.transform.fc1.out_channels == 16 and GlobalContext(8).transform.fc1.out_channels == 1
    assert isinstance(gate.transform.act, nn.ReLU) and gate.transform.norm.eps == 1e-5
    assert gate.transform.norm.weight.shape == (16, 1, 1)


def test_starts_at_one_half():
    x = torch.randn(2, 24, 7, 5)
    for calm in (True, False):
        gate = GlobalContext(24, calm=calm)
        assert torch.equal(gate(x), x / 2)
        assert not gate.mask.bias.any() and gate.mask.weight.any()


def test_the_attention_map_is_drawn_by_fan_in():
    spread = GlobalContext(2304).mask.weight.std()
    assert abs(spread - (2 / 2304) ** 0.5) < 0.1 * (2 / 2304) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits(dtype):
    """The softmax of numbers beyond the exponential's range."""
    gate = stirred(GlobalContext(16)).to(dtype)
    x = torch.randn(2, 16, 7, 7).to(dtype) * 1000
    assert gate(x).isfinite().all()

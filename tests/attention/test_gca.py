"""`gca` against the paper's equation: `gc`'s context, added."""

import numpy as np
import pytest
import torch
from timm.layers import GlobalContext as Timms
from torch import nn

from zoo.attention import GlobalContextAdd


def stirred(channels: int) -> nn.Module:
    gate = GlobalContextAdd(channels)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return gate


def test_the_papers_equation():
    gate = stirred(32).double()
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    x = torch.randn(3, 32, 5, 4, dtype=torch.float64)
    wanted = np.empty(x.shape)
    for b, one in enumerate(x.numpy()):
        pixels = one.reshape(32, 20).T  # a row a pixel
        weights = np.exp(pixels @ value["mask.weight"][0, :, 0, 0] + value["mask.bias"][0])
        pooled = sum(weight * pixel for weight, pixel in zip(weights / weights.sum(), pixels, strict=True))
        hidden = value["transform.fc1.weight"][:, :, 0, 0] @ pooled + value["transform.fc1.bias"]
        hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
        hidden = np.maximum(hidden * value["transform.norm.weight"][:, 0, 0] + value["transform.norm.bias"][:, 0, 0], 0)
        wanted[b] = one + (value["transform.fc2.weight"][:, :, 0, 0] @ hidden + value["transform.fc2.bias"])[:, None, None]
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels, size", [(64, 9), (1152, 7)])
def test_equals_timms_with_the_authors_epsilon(channels, size):
    timms, ours = Timms(channels, rd_channels=channels // 16, fuse_add=True, fuse_scale=False), stirred(channels)
    timms.mlp_add.norm.eps = 1e-5
    timms.mlp_add.norm._fast_norm = False
    state = {key: value.flatten() if ".norm." in key else value for key, value in ours.state_dict().items()}
    timms.load_state_dict({key.replace("mask", "conv_attn").replace("transform", "mlp_add"): value for key, value in state.items()})
    x = torch.randn(3, channels, size, size)
    assert torch.allclose(ours(x), timms(x), atol=1e-5)


def test_starts_as_the_identity():
    x = torch.randn(2, 24, 7, 5)
    for calm in (True, False):
        assert torch.equal(GlobalContextAdd(24, calm=calm)(x), x)


def test_the_gradient_that_comes_is_left_alone():
    """Behind a sum the gradient of the output and of x is one tensor: nothing may be added to it in place."""
    gate = stirred(48)
    x, gy = torch.randn(3, 48, 7, 5, requires_grad=True), torch.randn(3, 48, 7, 5)
    before = gy.clone()
    gate(x).backward(gy)
    assert torch.equal(gy, before) and not torch.equal(x.grad, gy)

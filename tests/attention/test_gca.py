"""`gca` against the paper's equations in float64 NumPy, and timm's class with the authors' epsilon. What it shares with `gc`: there."""

import numpy as np
import pytest
import torch
from timm.layers import GlobalContext as TimmsContext
from torch import nn

from zoo.attention import GlobalContext, GlobalContextAdd


def stirred(channels: int) -> GlobalContextAdd:
    gate = GlobalContextAdd(channels)
    for parameter in gate.parameters():
        nn.init.normal_(parameter, std=0.5)
    return gate


@pytest.mark.parametrize("size", [(5, 4), (9, 8), (1, 1)])
def test_the_papers_equations(size):
    gate = stirred(64).double()
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    x = torch.randn(3, 64, *size, dtype=torch.float64)
    wanted = x.numpy().copy()
    for picture in wanted:
        pixels = picture.reshape(64, -1)
        score = [float(value["mask.weight"].ravel() @ pixel + value["mask.bias"].item()) for pixel in pixels.T]
        power = [np.exp(one - max(score)) for one in score]
        context = sum(p * pixel for p, pixel in zip(power, pixels.T, strict=True)) / sum(power)
        hidden = value["transform.fc1.weight"].reshape(4, 64) @ context + value["transform.fc1.bias"]
        deviation = hidden - sum(hidden) / 4
        normed = deviation / (sum(deviation**2) / 4 + 1e-5) ** 0.5
        normed = normed * value["transform.norm.weight"].ravel() + value["transform.norm.bias"].ravel()
        moved = value["transform.fc2.weight"].reshape(64, 4) @ np.where(normed > 0, normed, 0) + value["transform.fc2.bias"]
        picture += moved[:, None, None]
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [32, 64, 672])
def test_equals_timms_with_the_authors_epsilon(channels):
    ours = stirred(channels)
    timms = TimmsContext(channels, fuse_add=True, fuse_scale=False, rd_channels=ours.transform.fc1.out_channels)
    assert timms.mlp_add.norm.eps == 1e-6
    timms.mlp_add.norm.eps = 1e-5
    state = {key.replace("transform.", "mlp_add.").replace("mask.", "conv_attn."): value for key, value in ours.state_dict().items()}
    timms.load_state_dict({key: value.flatten() if ".norm." in key else value for key, value in state.items()}, strict=True)
    x = torch.randn(2, channels, 7, 5)
    assert torch.allclose(ours(x), timms(x), atol=1e-5)


@pytest.mark.parametrize("calm", [True, False])
def test_the_start_is_the_input(calm):
    x = torch.randn(2, 24, 7, 5)
    gate = GlobalContextAdd(24, calm=calm)
    assert torch.equal(gate(x), x) and gate(x) is not x
    gate(x).square().sum().backward()
    assert gate.transform.fc2.bias.grad.any(), "and it wakes"


@pytest.mark.parametrize("channels", [8, 64, 144, 1152])
def test_is_gc_but_for_the_fusion(channels):
    state = GlobalContext(channels).state_dict()
    gate = GlobalContextAdd(channels)
    gate.load_state_dict(state, strict=True)
    assert gate.attends == "channel" and isinstance(gate.transform.act, nn.ReLU)
    assert all(torch.equal(value, state[key]) for key, value in gate.state_dict().items())


def test_moves_every_pixel_of_a_channel_alike():
    x = torch.randn(2, 32, 6, 5)
    moved = stirred(32)(x) - x
    assert torch.allclose(moved, moved[:, :, :1, :1].expand_as(moved), atol=1e-5) and moved.abs().max() > 0.1


@pytest.mark.parametrize("shape", [(2, 16, 4, 4), (17, 64, 33, 40)])
def test_the_gradient_that_comes_in_is_left_alone(shape):
    """Behind a sum it is somebody else's: the same tensor goes into the other summand."""
    gate = stirred(shape[1])
    x = torch.randn(shape).requires_grad_()
    given = torch.randn(shape)
    before = given.clone()
    gate(x).backward(given)
    assert torch.equal(given, before)
    assert not torch.equal(x.grad, given)

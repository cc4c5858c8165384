"""`lcbam` in float64 NumPy, timm's class with the same file, and the width that timm gives it inside an EfficientNet."""

import numpy as np
import pytest
import timm
import torch
from timm.layers.cbam import LightCbamModule
from torch import nn

import zoo  # noqa: F401  (fills timm's registry)
from zoo.attention import LCBAM


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def stirred(channels: int, **kwargs) -> LCBAM:
    gate = LCBAM(channels, **kwargs)
    bn = gate.spatial.conv.bn
    for tensor in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(bn.running_var, 0.5, 2)
    return gate


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kernel_size, mlp_bias", [(7, False), (3, True)])
def test_the_equations(train, kernel_size, mlp_bias):
    gate = stirred(32, kernel_size=kernel_size, mlp_bias=mlp_bias).double().train(train)
    value = {key: tensor.detach().numpy().copy() for key, tensor in gate.state_dict().items()}
    x = torch.randn(3, 32, 9, 5, dtype=torch.float64)
    gated = x.numpy().copy()
    for b in range(3):
        pooled = np.array([(plane.mean() + plane.max()) / 2 for plane in gated[b]])
        hidden = value["channel.fc1.weight"][:, :, 0, 0] @ pooled + value.get("channel.fc1.bias", 0)
        gate_of = sigmoid(value["channel.fc2.weight"][:, :, 0, 0] @ np.maximum(hidden, 0) + value.get("channel.fc2.bias", 0))
        gated[b] *= gate_of[:, None, None]
    kernel = value["spatial.conv.conv.weight"][0, 0]
    pooled = (gated.mean(1) + gated.max(1)) / 2
    padded = np.pad(pooled, ((0, 0), (kernel_size // 2,) * 2, (kernel_size // 2,) * 2))
    conv = np.empty((3, 9, 5))
    for b, i, j in np.ndindex(3, 9, 5):
        conv[b, i, j] = (padded[b, i : i + kernel_size, j : j + kernel_size] * kernel).sum()
    mean, var = (conv.mean(), conv.var()) if train else (value["spatial.conv.bn.running_mean"], value["spatial.conv.bn.running_var"])
    normed = (conv - mean) / np.sqrt(var + 1e-5) * value["spatial.conv.bn.weight"] + value["spatial.conv.bn.bias"]
    assert np.allclose(gate(x).detach().numpy(), gated * sigmoid(normed)[:, None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("channels", [8, 24, 144, 672])
def test_equals_timms(channels, train):
    timms, ours = LightCbamModule(channels).train(train), stirred(channels).train(train)
    timms.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, channels, 9, 7)
    for _ in range(2):
        assert torch.equal(ours(x), timms(x))
    for theirs, own in zip(timms.spatial.conv.bn.buffers(), ours.spatial.conv.bn.buffers(), strict=True):
        assert not own.is_floating_point() or torch.equal(theirs, own), "the running statistics"


def test_timms_network_loads_into_ours_and_back():
    """So also: the bottlenecks have timm's width."""
    theirs = timm.create_model("efficientnet_b0", se_layer="lcbam", device="meta")
    ours = timm.create_model("effnet_lcbam_b0", device="meta")
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (theirs, ours)]
    assert shapes[0] == shapes[1]
    assert sum(isinstance(module, LCBAM) for module in ours.modules()) == 16


@pytest.mark.parametrize("channels, width", [(8, 1), (24, 2), (32, 2), (40, 3), (144, 9), (1152, 72)])
def test_timms_width(channels, width):
    """Rounded to the nearest, halves upwards."""
    gate = LCBAM(channels)
    assert gate.channel.fc1.out_channels == width and isinstance(gate.channel.act, nn.ReLU)
    assert gate.spatial.conv.conv.kernel_size == (7, 7) and gate.spatial.conv.bn.momentum == 0.1


def test_one_value_leaves_the_running_statistics_alone():
    gate, timms = LCBAM(16).train(), LightCbamModule(16).train()
    before = {key: value.clone() for key, value in gate.state_dict().items()}
    x = torch.randn(1, 16, 1, 1)
    assert gate(x).isfinite().all()
    assert all(torch.equal(value, before[key]) for key, value in gate.state_dict().items())
    with pytest.raises(ValueError, match="more than 1 value"):
        timms(x)


@pytest.mark.parametrize("kernel_size", [2, 0, -3])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(ValueError, match=f"odd number.* got {kernel_size}"):
        LCBAM(24, kernel_size=kernel_size)


@pytest.mark.parametrize("mlp_bias", [True, False])
def test_calm_is_one_quarter(mlp_bias):
    x = torch.randn(2, 24, 7, 5)
    gate = LCBAM(24, mlp_bias=mlp_bias, calm=True)
    assert torch.equal(gate.train()(x), x / 4)
    assert torch.equal(gate.eval()(x), x / 4)

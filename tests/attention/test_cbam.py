"""`cbam` against the paper's equations in float64 NumPy (as the authors compute them), and timm's with its inputs in the authors' order."""

import numpy as np
import pytest
import torch
from timm.layers import freeze_batch_norm_2d
from timm.layers.cbam import CbamModule
from torch import nn

from zoo.attention import CBAM


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(gate: CBAM, picture: np.ndarray, train: bool) -> np.ndarray:
    """Equations 1-3; maximum before mean, bias in the MLP, batch norm in the spatial gate."""
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    batch, channels, height, width = picture.shape

    def mlp(vector):
        hidden = np.maximum(value["channel.fc1.weight"] @ vector + value["channel.fc1.bias"], 0)
        return value["channel.fc2.weight"] @ hidden + value["channel.fc2.bias"]

    gated = np.empty_like(picture)
    for b in range(batch):
        gate_of = sigmoid(mlp(picture[b].mean((1, 2))) + mlp(picture[b].max((1, 2))))
        gated[b] = picture[b] * gate_of[:, None, None]

    kernel = value["spatial.conv.weight"][0]
    size = kernel.shape[-1]
    pooled = np.stack([gated.max(1), gated.mean(1)], 1)
    padded = np.pad(pooled, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    conv = np.empty((batch, height, width))
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                conv[b, i, j] = (padded[b, :, i : i + size, j : j + size] * kernel).sum()
    mean, var = (conv.mean(), conv.var()) if train else (value["spatial.bn.running_mean"], value["spatial.bn.running_var"])
    normed = (conv - mean) / np.sqrt(var + 1e-5) * value["spatial.bn.weight"] + value["spatial.bn.bias"]
    return gated * sigmoid(normed)[:, None]


def stirred(channels: int, **kwargs) -> CBAM:
    gate = CBAM(channels, **kwargs)
    bn = gate.spatial.bn
    for tensor in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(bn.running_var, 0.5, 2)
    return gate


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kernel_size", [7, 3])
def test_the_papers_equations(train, kernel_size):
    gate = stirred(32, kernel_size=kernel_size).double().train(train)
    x = torch.randn(3, 32, 9, 5, dtype=torch.float64)
    wanted = reference(gate, x.numpy(), train)
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_equals_timms_with_the_authors_order(train):
    timms, ours = CbamModule(64, mlp_bias=True).train(train), stirred(64).train(train)
    state = {
        "channel.fc1.weight": ours.channel.fc1.weight[:, :, None, None],
        "channel.fc1.bias": ours.channel.fc1.bias,
        "channel.fc2.weight": ours.channel.fc2.weight[:, :, None, None],
        "channel.fc2.bias": ours.channel.fc2.bias,
        "spatial.conv.conv.weight": ours.spatial.conv.weight.flip(1),  # timm puts the mean first
        **{f"spatial.conv.bn.{key}": value for key, value in ours.spatial.bn.state_dict().items()},
    }
    timms.load_state_dict(state, strict=True)
    x = torch.randn(2, 64, 9, 7)
    wanted = timms(x)
    assert torch.allclose(ours(x), wanted, atol=1e-5)

    timms.spatial.conv.conv.weight.data = ours.spatial.conv.weight.data
    assert not torch.allclose(ours(x), timms(x), atol=1e-2), "the order matters, so the line above tests it"


@pytest.mark.parametrize("channels", [8, 16, 24, 32, 64, 144, 1152])
def test_the_papers_width(channels):
    gate = CBAM(channels)
    assert gate.channel.fc1.out_features == max(1, channels // 16)
    assert isinstance(gate.channel.act, nn.ReLU) and gate.spatial.conv.kernel_size == (7, 7)
    assert gate.spatial.bn.eps == 1e-5 and gate.spatial.bn.momentum == 0.01


@pytest.mark.parametrize("channels, entering", [(1152, 192), (96, 16), (32, 32), (672, 112), (2304, 384), (176, 120)])
def test_efficientnets_width(channels, entering):
    """Ratios have no exact floats: 176 * (30 / 176) is 29.999..., and the bottleneck is 30."""
    assert CBAM(channels, rd_ratio=0.25 * entering / channels).channel.fc1.out_features == entering // 4


def test_no_mlp_bias():
    gate = CBAM(32, mlp_bias=False, calm=True)
    assert gate.channel.fc1.bias is None and gate.channel.fc2.bias is None
    x = torch.randn(2, 32, 7, 5)
    assert torch.equal(gate(x), x / 4)


@pytest.mark.parametrize("kernel_size", [2, 0, -3])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(ValueError, match=f"odd number.* got {kernel_size}"):
        CBAM(24, kernel_size=kernel_size)


def test_calm_is_one_quarter():
    x = torch.randn(2, 24, 7, 5)
    gate = CBAM(24, calm=True)
    assert torch.equal(gate.train()(x), x / 4)
    assert torch.equal(gate.eval()(x), x / 4)


def test_running_statistics_move_by_the_authors_momentum():
    gate = CBAM(16).train()
    gate(torch.randn(4, 16, 7, 7))
    moved = gate.spatial.bn.running_var.clone()
    assert 0.98 < moved < 1.0 + 0.01 * 10 and moved != 1
    gate.spatial.bn.momentum = 1.0
    gate(torch.randn(4, 16, 7, 7))
    assert gate.spatial.bn.running_var < 0.9, "momentum is the layer's, not a constant in the code"


def test_one_value_leaves_the_running_statistics_alone():
    gate = CBAM(16).train()
    before = {key: value.clone() for key, value in gate.state_dict().items()}
    assert gate(torch.randn(1, 16, 1, 1)).isfinite().all()
    assert all(torch.equal(value, before[key]) for key, value in gate.state_dict().items())


def test_frozen_batch_norm_stays_frozen():
    """timm's freezing replaces batch norms by other layers: the gate must call what stands there."""
    gate = freeze_batch_norm_2d(CBAM(16)).train()
    before = {key: value.clone() for key, value in gate.state_dict().items()}
    gate(torch.randn(4, 16, 7, 7))
    assert all(torch.equal(value, before[key]) for key, value in gate.state_dict().items())


def test_eval_of_the_batch_norm_alone():
    gate = CBAM(16).train()
    gate.spatial.bn.eval()
    before = gate.spatial.bn.running_var.clone()
    gate(torch.randn(4, 16, 7, 7))
    assert torch.equal(gate.spatial.bn.running_var, before)


def test_sync_batch_norm_is_used():
    gate = nn.SyncBatchNorm.convert_sync_batchnorm(CBAM(16))
    assert type(gate.spatial.bn) is nn.SyncBatchNorm
    called = []
    gate.spatial.bn.register_forward_hook(lambda *_: called.append(True))
    gate.eval()(torch.randn(2, 16, 7, 7))
    assert called

"""`bam` against the authors' computation in float64 NumPy, in both modes, and its widths."""

import numpy as np
import pytest
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn

from zoo.attention import BAM


def stirred(channels: int, **kwargs) -> BAM:
    gate = BAM(channels, **kwargs)
    for key, tensor in gate.state_dict().items():
        if "bn" in key and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2)
    return gate


def reference(gate: BAM, picture: np.ndarray, train: bool, dilation: int) -> np.ndarray:
    """y = x (1 + sigmoid(ca * sa)) with zero padding; the channel branch's batch norm counts pictures, the spatial branch's pixels."""
    value = {key: tensor.detach().numpy().copy() for key, tensor in gate.state_dict().items()}

    def bn(name, x):  # [N, c]
        mean, var = (x.mean(0), x.var(0)) if train else (value[f"{name}.running_mean"], value[f"{name}.running_var"])
        return (x - mean) / np.sqrt(var + 1e-5) * value[f"{name}.weight"] + value[f"{name}.bias"]

    def conv(name, x):  # [B, H, W, c]
        weight = value[f"{name}.weight"]
        y = np.zeros((*x.shape[:3], len(weight))) + value[f"{name}.bias"]
        reach = weight.shape[-1] // 2
        for b, i, j in np.ndindex(x.shape[:3]):
            for u in range(-reach, reach + 1):
                for v in range(-reach, reach + 1):
                    row, column = i + u * dilation, j + v * dilation
                    if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                        y[b, i, j] += weight[:, :, u + reach, v + reach] @ x[b, row, column]
        return y

    means = picture.mean((2, 3))
    hidden = means @ value["channel.fc1.weight"][:, :, 0, 0].T + value["channel.fc1.bias"]
    channel = np.maximum(bn("channel.bn", hidden), 0) @ value["channel.fc2.weight"][:, :, 0, 0].T + value["channel.fc2.bias"]

    maps = picture.transpose(0, 2, 3, 1)
    for step in (1, 2, 3):
        maps = conv(f"spatial.conv{step}", maps)
        maps = np.maximum(bn(f"spatial.bn{step}", maps.reshape(-1, maps.shape[-1])), 0).reshape(maps.shape)
    spatial = conv("spatial.conv4", maps)[..., 0]
    return picture * (1 + 1 / (1 + np.exp(-channel[:, :, None, None] * spatial[:, None])))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dilation", [4, 1])
def test_the_authors_computation(train, dilation):
    gate = stirred(64, dilation=dilation).double().train(train)
    x = torch.randn(3, 64, 9, 6, dtype=torch.float64)
    wanted = reference(gate, x.numpy(), train, dilation)
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-10)
    assert not np.allclose(wanted, 1.5 * x.numpy(), atol=0.1), "the branches are alive"


@pytest.mark.parametrize("channels, hidden", [(8, 1), (24, 1), (40, 2), (64, 4), (1152, 72)])
def test_the_papers_width(channels, hidden):
    gate = BAM(channels)
    assert gate.channel.fc1.out_channels == gate.spatial.conv1.out_channels == hidden
    assert gate.spatial.conv2.dilation == gate.spatial.conv3.padding == (4, 4)
    assert isinstance(gate.channel.act, nn.ReLU) and isinstance(gate.spatial.act, nn.ReLU)
    norms = [module for module in gate.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(1e-5, 0.1)] * 4


def test_efficientnets_activation_is_in_both_branches():
    gate = BAM(24, rd_ratio=1 / 4, act_layer=nn.SiLU)
    assert isinstance(gate.channel.act, nn.SiLU) and isinstance(gate.spatial.act, nn.SiLU) and gate.spatial.conv3.out_channels == 6


def test_one_picture_trains():
    """The channel branch then has one value a channel: its batch norm falls back on the running statistics and leaves them alone."""
    gate = stirred(32).train()
    before = gate.channel.bn.running_mean.clone(), gate.spatial.bn1.running_mean.clone()
    assert gate(torch.randn(1, 32, 5, 5)).isfinite().all()
    assert torch.equal(gate.channel.bn.running_mean, before[0])
    assert not torch.equal(gate.spatial.bn1.running_mean, before[1])


def test_it_only_amplifies():
    x = torch.randn(2, 64, 7, 5)
    factor = stirred(64)(x) / x
    assert factor.min() >= 1 and factor.max() <= 2 + 1e-6


@pytest.mark.parametrize("dilation", [0, -1])
def test_dilation_below_one_is_refused(dilation):
    with pytest.raises(ValueError, match=f"1 or more, got {dilation}"):
        BAM(24, dilation=dilation)


def test_calm_is_one_and_a_half():
    x = torch.randn(2, 24, 7, 5)
    gate = BAM(24, calm=True)
    assert torch.equal(gate.train()(x), x * 1.5)
    assert torch.equal(gate.eval()(x), x * 1.5)


def test_frozen_batch_norms_stay_frozen():
    gate = freeze_batch_norm_2d(stirred(32)).train()
    before = {key: value.clone() for key, value in gate.state_dict().items()}
    gate(torch.randn(4, 32, 7, 7))
    assert all(torch.equal(value, before[key]) for key, value in gate.state_dict().items())

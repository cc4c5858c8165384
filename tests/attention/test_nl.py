"""`nl` against the paper's equations in float64 NumPy, and timm's class with all the biases that cancel."""

import math

import numpy as np
import pytest
import torch
from timm.layers import NonLocalAttn
from torch import nn

from zoo.attention import NonLocal


def stirred(channels: int, **kwargs) -> NonLocal:
    gate = NonLocal(channels, **kwargs)
    for tensor in (gate.bn.weight, gate.bn.bias, gate.bn.running_mean, gate.theta.bias):
        nn.init.normal_(tensor)
    nn.init.uniform_(gate.bn.running_var, 0.5, 2)
    return gate


def reference(gate: NonLocal, picture: np.ndarray, train: bool, scale: float) -> np.ndarray:
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    theta, phi, g, z = (value[f"{each}.weight"][:, :, 0, 0] for each in ("theta", "phi", "g", "z"))
    added = np.empty_like(picture)
    for b in range(len(picture)):
        pixels = picture[b].reshape(picture.shape[1], -1)
        for i in range(pixels.shape[1]):
            alike = np.array([scale * (theta @ pixels[:, i] + value["theta.bias"]) @ (phi @ x) for x in pixels.T])
            weights = np.exp(alike - alike.max())
            total = sum(weight * (g @ x) for weight, x in zip(weights / weights.sum(), pixels.T, strict=True))
            added[b].reshape(pixels.shape)[:, i] = z @ total
    mean, var = (added.mean((0, 2, 3)), added.var((0, 2, 3))) if train else (value["bn.running_mean"], value["bn.running_var"])
    mean, var, weight, bias = (each[:, None, None] for each in (mean, var, value["bn.weight"], value["bn.bias"]))
    return picture + (added - mean) / np.sqrt(var + 1e-5) * weight + bias


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_papers_equations(scale, train):
    gate = stirred(16, scale=scale).double().train(train)
    x = torch.randn(2, 16, 4, 5, dtype=torch.float64)
    wanted = reference(gate, x.numpy(), train, scale)
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_equals_timms_whose_other_biases_cancel(train):
    timms = NonLocalAttn(32, rd_ratio=1 / 2, use_scale=False).train(train)
    for parameter in timms.parameters():
        nn.init.normal_(parameter, std=0.3)
    state = {f"{ours}.weight": getattr(timms, name).weight for ours, name in (("theta", "t"), ("phi", "p"), ("g", "g"), ("z", "z"))}
    state["theta.bias"] = timms.t.bias
    state |= {f"bn.{key}": value for key, value in timms.norm.state_dict().items()}
    state["bn.running_mean"] = timms.norm.running_mean - timms.z.weight[:, :, 0, 0] @ timms.g.bias - timms.z.bias
    ours = NonLocal(32)
    ours.load_state_dict(state)
    x = torch.randn(2, 32, 6, 5)
    assert torch.allclose(ours.train(train)(x), timms(x), atol=1e-5)


def test_the_papers_numbers():
    gate = NonLocal(64)
    assert gate.theta.out_channels == gate.phi.out_channels == gate.g.out_channels == gate.z.in_channels == 32
    assert gate.scale == 1 and not gate.bn.weight.any() and not gate.theta.bias.any()
    assert gate.phi.bias is None and gate.g.bias is None and gate.z.bias is None
    assert gate.bn.eps == 1e-5 and gate.bn.momentum == 0.1
    gate = NonLocal(512)
    assert math.isclose(gate.theta.weight.detach().std(), math.sqrt(2 / 512), rel_tol=0.03)


def test_efficientnets_width():
    assert NonLocal(1152, rd_ratio=0.25 / 6).theta.out_channels == 48


@pytest.mark.parametrize("calm", [True, False])
def test_it_starts_as_the_identity(calm):
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(NonLocal(24, calm=calm)(x), x)


@pytest.mark.parametrize("scale", [0, -1.0])
def test_scales_that_are_not_positive_are_refused(scale):
    with pytest.raises(ValueError, match=f"positive number.* got {scale}"):
        NonLocal(24, scale=scale)

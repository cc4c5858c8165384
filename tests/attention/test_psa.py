"""`psa` against the authors' order in float64 NumPy: matrices first and means after, as published, in both forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import PSA


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    """Over the last direction, the pixels."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def reference(gate: PSA, picture: np.ndarray, parallel: bool) -> np.ndarray:
    value = {key: tensor.numpy().squeeze((-1, -2)) if tensor.ndim > 2 else tensor.numpy() for key, tensor in gate.state_dict().items()}

    def channel(x):
        context = (value["channel.value.weight"] @ x) @ softmax(value["channel.query.weight"] @ x)[0]
        if parallel:
            return sigmoid(value["channel.up.weight"] @ context)
        hidden = value["channel.up.0.weight"] @ context + value["channel.up.0.bias"]
        hidden = (hidden - hidden.mean()) / math.sqrt(hidden.var() + 1e-5) * value["channel.up.1.weight"] + value["channel.up.1.bias"]
        return sigmoid(value["channel.up.3.weight"] @ np.maximum(hidden, 0) + value["channel.up.3.bias"])

    def spatial(x):
        query, values = (value["spatial.query.weight"] @ x).mean(1), value["spatial.value.weight"] @ x
        return sigmoid(softmax(query @ values) if parallel else query @ softmax(values))

    result = np.empty_like(picture)
    for b in range(len(picture)):
        x = picture[b].reshape(picture.shape[1], -1)
        if parallel:
            y = x * channel(x)[:, None] + x * spatial(x)
        else:
            x = x * channel(x)[:, None]
            y = x * spatial(x)
        result[b] = y.reshape(picture.shape[1:])
    return result


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("order", ["parallel", "sequential"])
def test_the_authors_equations(order, train):
    gate = PSA(32, order=order).double().train(train)
    if order == "sequential":
        nn.init.normal_(gate.channel.up[1].weight)
        nn.init.normal_(gate.channel.up[1].bias)
    x = torch.randn(2, 32, 5, 4, dtype=torch.float64)
    assert np.allclose(gate(x).detach().numpy(), reference(gate, x.numpy(), order == "parallel"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels", [16, 64, 2304])
def test_the_papers_widths(channels):
    gate = PSA(channels, order="sequential", device="meta")
    assert gate.channel.value.out_channels == gate.spatial.query.out_channels == gate.spatial.value.out_channels == channels // 2
    assert gate.channel.up[0].out_channels == channels // 8 and gate.channel.up[1].eps == 1e-5
    assert isinstance(gate.channel.up[2], nn.ReLU)
    assert {key for key in PSA(channels, device="meta").state_dict() if "bias" in key} == set()


def test_efficientnets_width():
    gate = PSA(96, rd_ratio=0.25 / 6, act_layer=nn.SiLU, order="sequential")
    assert gate.channel.value.out_channels == 4 and isinstance(gate.channel.up[2], nn.SiLU)
    assert gate.channel.up[1].normalized_shape == (2, 1, 1), "a layer norm of one value would be constant"


def test_the_authors_start():
    gate = PSA(512)
    for layer in (gate.channel.value, gate.spatial.query, gate.spatial.value):
        assert math.isclose(layer.weight.detach().std(), math.sqrt(2 / 512), rel_tol=0.03)


@pytest.mark.parametrize("order, wanted", [("sequential", 1 / 4), ("parallel", 1 / 2 + 1 / (1 + math.exp(-1 / 35)))])
def test_calm_is_constant(order, wanted):
    x = torch.randn(2, 24, 7, 5)
    gate = PSA(24, order=order, calm=True)
    assert torch.allclose(gate(x), x * wanted, rtol=0, atol=1e-6)
    before = {key: value.clone() for key, value in gate.state_dict().items()}
    for _ in range(3):
        gate.zero_grad()
        (gate(torch.randn(4, 24, 7, 5)) * torch.randn(4, 24, 7, 5)).mean().backward()
        torch.optim.SGD(gate.parameters(), lr=10.0).step()
    assert all(not torch.equal(value, before[key]) for key, value in gate.state_dict().items()), "every layer wakes"


@pytest.mark.parametrize("shape, dtype", [((1, 8, 1, 1), torch.float32), ((2, 40, 7, 7), torch.float16), ((2, 40, 7, 7), torch.bfloat16)])
def test_the_sequential_form_keeps_the_contract(shape, dtype):
    gate = PSA(shape[1], order="sequential").to(dtype)
    x = (torch.randn(*shape) * 30).to(dtype).contiguous(memory_format=torch.channels_last)
    y = gate(x)
    assert y.dtype == dtype and y.isfinite().all() and y.is_contiguous(memory_format=torch.channels_last)
    wanted = gate.double()(x.double())
    assert (y.double() - wanted).abs().max() / wanted.abs().max() < 0.06


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_the_sequential_form_is_scripted():
    gate = PSA(16, order="sequential")
    x = torch.randn(2, 16, 6, 5)
    assert torch.allclose(torch.jit.script(gate)(x), gate(x), atol=1e-6)


def test_another_order_is_refused():
    with pytest.raises(ValueError, match="'parallel' or 'sequential', got 'both'"):
        PSA(24, order="both")

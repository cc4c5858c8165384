"""Depthwise convolutions of tiny maps: torch's own convolution is the reference, value and gradients."""

import pytest
import timm
import torch
from torch import nn

import zoo  # noqa: F401
from zoo.train import tiny_maps as module
from zoo.train.tiny_maps import TinyMapConv2d, tiny_maps


def depthwise(channels: int, kernel, stride: int, **kwargs) -> nn.Conv2d:
    sizes = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    padding = tuple(kwargs.get("dilation", 1) * (size // 2) for size in sizes)
    return nn.Conv2d(channels, channels, kernel, stride, **{"padding": padding, "groups": channels, "bias": False, **kwargs})


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"dilation": 3}], ids=["plain", "bias", "dilated"])
@pytest.mark.parametrize("kernel", [3, 5, 7, (1, 11), (21, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (1, 3), (5, 3), (2, 8), (16, 1)])
def test_the_same_as_a_convolution(size, stride, kernel, options, channels_last):
    conv = depthwise(6, kernel, stride, **options)
    x = torch.randn(3, 6, *size)
    x = (x.to(memory_format=torch.channels_last) if channels_last else x).requires_grad_()
    wanted = conv(x)
    pull = torch.randn_like(wanted)
    leaves = (x, *conv.parameters())
    expected = torch.autograd.grad(wanted, leaves, pull)
    with tiny_maps(conv):
        y = conv(x)
        found = torch.autograd.grad(y, leaves, pull)
    assert y.shape == wanted.shape and torch.allclose(y, wanted, atol=1e-6)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_what_takes_the_short_way(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "_places", lambda *args: calls.append(args) or (_ for _ in ()).throw(AssertionError))
    conv = depthwise(4, 3, 1)
    with tiny_maps(conv):
        conv(torch.randn(1, 4, 5, 4)), conv(torch.randn(1, 4, 1, 1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            conv(torch.randn(1, 4, 4, 4))
        conv.double()(torch.randn(1, 4, 4, 4, dtype=torch.float64))
        assert not calls
        with pytest.raises(AssertionError):
            conv.float()(torch.randn(1, 4, 4, 4))
    assert calls == [((4, 4), (3, 3), (1, 1), (1, 1))]


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1, groups=4), depthwise(4, 3, 1, padding=0), depthwise(4, (2, 3), 1)],
    ids=["full", "multiplier", "unpadded", "even"],
)
def test_other_convolutions_are_left_alone(conv):
    with tiny_maps(conv):
        assert type(conv) is nn.Conv2d


def test_afterwards_everything_is_what_it_was():
    network = timm.create_model("effnet_cbam_b0")
    before = [type(part) for part in network.modules()]
    with pytest.raises(KeyError), tiny_maps(network):
        assert sum(type(part) is TinyMapConv2d for part in network.modules()) == 16
        raise KeyError
    assert [type(part) for part in network.modules()] == before

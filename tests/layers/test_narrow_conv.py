"""The convolution to one channel against torch's, in every form it takes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.layers import NarrowConv2d, narrow_conv

MAPS = [(1, 1), (2, 3), (7, 7), (8, 8), (5, 13), (14, 14), (16, 16), (18, 21), (20, 20), (20, 21), (23, 30), (28, 28), (56, 31)]


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9, 11])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 5])
def test_is_a_convolution(batch, channels, kernel_size):
    conv = NarrowConv2d(channels, kernel_size).double()
    plain = nn.Conv2d(channels, 1, kernel_size, padding=kernel_size // 2, bias=False).double()
    plain.load_state_dict(conv.state_dict(), strict=True)
    for size in MAPS:
        x = torch.randn(batch, channels, *size, dtype=torch.float64).requires_grad_()
        y, wanted = conv(x), plain(x)
        assert y.shape == wanted.shape and torch.allclose(y, wanted, rtol=0, atol=1e-12)
        gy = torch.randn_like(y)
        found, expected = torch.autograd.grad(y, [x, conv.weight], gy), torch.autograd.grad(wanted, [x, plain.weight], gy)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-11) for a, b in zip(found, expected, strict=True)), size


@pytest.mark.parametrize(
    "batch, size, form",
    [(2, 7, []), (8, 14, []), (1, 14, ["unfold"]), (2, 18, ["conv2d"]), (2, 28, ["conv2d", "pixel_shuffle"])],
    ids=["matrix", "matrix of more", "patches", "torch's", "blocks"],
)
def test_each_form_is_used(batch, size, form, monkeypatch):
    """Or the test above would compare one form with itself."""
    used = []

    def spy(name, function):
        monkeypatch.setattr(F, name, lambda *args, **kwargs: used.append(name) or function(*args, **kwargs))

    for name in ("unfold", "conv2d", "pixel_shuffle"):
        spy(name, getattr(F, name))
    NarrowConv2d(2, 7)(torch.randn(batch, 2, size, size))
    assert used == form


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_without_gradients(channels, channels_last, monkeypatch):
    """Of several samples, each channel of each sample is a channel of a depthwise convolution."""
    groups = []
    conv2d = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *args, **kwargs: groups.append(kwargs.get("groups", 1)) or conv2d(*args, **kwargs))
    conv = NarrowConv2d(channels, 7).double()
    if channels_last:
        conv = conv.to(memory_format=torch.channels_last)
    for height, width in ((20, 21), (28, 28), (57, 33)):
        x = torch.randn(8, channels, height, width, dtype=torch.float64)
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        with torch.no_grad():
            y = conv(x)
        assert groups == [8 * channels] and y.shape == (8, 1, height, width)
        assert torch.allclose(y, conv2d(x, conv.weight, padding=3), rtol=0, atol=1e-12)
        groups.clear()


def test_derivatives():
    for size in ((3, 4), (21, 20)):
        x = torch.randn(1, 1, *size, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(narrow_conv._narrow_conv, (x, weight), fast_mode=True)
        assert torch.autograd.gradgradcheck(narrow_conv._narrow_conv, (x, weight), fast_mode=True)


def test_first_used_for_inference():
    """What is kept between calls must not be an inference tensor, or training afterwards fails."""
    narrow_conv._matrix_index.cache_clear()
    narrow_conv._block_index.cache_clear()
    conv = NarrowConv2d(2, 7)
    with torch.inference_mode():
        conv(torch.randn(1, 2, 7, 7)), conv(torch.randn(1, 2, 28, 28))
    for size in (7, 28):
        conv(torch.randn(1, 2, size, size)).sum().backward()
    assert conv.weight.grad.any()


def test_half_precision_and_nothing():
    conv = NarrowConv2d(2, 7).bfloat16()
    x = torch.randn(2, 2, 28, 28, dtype=torch.bfloat16)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, padding=3))
    assert NarrowConv2d(2, 7)(torch.randn(0, 2, 28, 28)).shape == (0, 1, 28, 28)

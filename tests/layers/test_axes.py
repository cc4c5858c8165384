"""Means along the two axes and the product with two gates, chained as `coord` chains them, against the plain equation."""

import pytest
import torch

import zoo.layers.axes as axes
import zoo.layers.gating as gating
from zoo.layers.axes import pool_axes, scale_axes

SMALL = [(1, 8, 1, 1), (3, 8, 2, 2), (17, 8, 7, 7), (3, 8, 1, 7), (3, 8, 7, 1), (1, 8, 14, 9), (3, 4, 33, 40), (2, 1, 5, 5), (3, 4, 65, 1)]
LARGE = [(17, 320, 7, 7), (1, 2304, 14, 9), (3, 80, 33, 40), (17, 12, 40, 33), (9, 64, 40, 31)]
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])


def chain(x, u, v):
    height = x.shape[2]
    x, strips = pool_axes(x)
    rows = torch.sigmoid(u[:, None, None] * strips[:, :, :height])
    columns = torch.sigmoid(v[:, None, None] * strips[:, :, height:])
    return scale_axes(x, rows, columns)


def plain(x, u, v):
    rows = torch.sigmoid(u[:, None, None] * x.mean(3, keepdim=True))
    columns = torch.sigmoid(v[:, None, None] * x.mean(2, keepdim=True))
    return x * rows * columns


def gates(channels, dtype=torch.float64):
    return torch.randn(channels, dtype=dtype), torch.randn(channels, dtype=dtype)


@layouts
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_small_maps_a_sample_at_a_time(shape, layout, always, called, compare, pictures):
    for x in pictures(shape, layout):
        assert gating.samples(x) == 1
        compare(chain, plain, x, *gates(shape[1]))
    assert set(called) == {"_PoolAxes", "_ScaleAxes"}


@layouts
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_large_maps(shape, layout, called, compare):
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout)
    assert x.numel() >= axes.LEAST
    compare(chain, plain, x, *gates(shape[1]))
    assert set(called) == {"_PoolAxes", "_ScaleAxes"}


def test_every_branch_is_reached():
    large = [torch.empty(shape, dtype=torch.float64) for shape in LARGE]
    assert {axes._tiny(x) for x in large} == {True, False}
    assert {x.shape[3] > 32 for x in large if not axes._tiny(x)} == {True, False}, "sums over the width in both ways"
    assert any(1 < gating.samples(x) < len(x) and len(x) % gating.samples(x) for x in large), "chunks, the last one smaller"
    assert any(gating.samples(x) >= len(x) for x in large if not axes._tiny(x)), "the whole"


@layouts
def test_float32(layout, called, compare):
    for shape in ((17, 320, 7, 7), (5, 80, 33, 31)):
        compare(chain, plain, torch.randn(shape).contiguous(memory_format=layout), *gates(shape[1], torch.float32), tol=1e-4)
    assert set(called) == {"_PoolAxes", "_ScaleAxes"}


@layouts
@pytest.mark.parametrize("size", [(3, 2), (13, 5)], ids=["tiny", "small"])
def test_numerically(size, layout, always, called):
    x = torch.randn(2, 2, *size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    assert axes._tiny(x) == (size == (3, 2) and x.is_contiguous())
    inputs = (x, *(gate.requires_grad_() for gate in gates(2)))
    assert torch.autograd.gradcheck(chain, inputs)
    assert torch.autograd.gradgradcheck(chain, inputs, fast_mode=True)
    assert set(called) == {"_PoolAxes", "_ScaleAxes"}


@layouts
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 20), (8, 8), (5, 13)])
def test_inference(size, layout, called):
    """The smallest maps in the memory order B, C, H, W are products with a matrix at any number of elements; the rest is plain."""
    x = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=layout)
    u, v = gates(6)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = chain(x, u, v)
            assert torch.allclose(y, plain(x, u, v), rtol=1e-12, atol=1e-12)
            assert y.is_contiguous(memory_format=layout)
    assert bool(called) == (size[0] * size[1] <= 64 and x.is_contiguous())


def test_constants_made_in_inference_serve_training(always, called, compare):
    axes._axes.cache_clear()
    x, (u, v) = torch.randn(2, 6, 7, 5, dtype=torch.float64), gates(6)
    with torch.inference_mode():
        chain(x, u, v)
    assert called and axes._axes.cache_info().currsize == 1
    compare(chain, plain, x, u, v)
    assert axes._axes.cache_info().currsize == 1


def test_small_maps_in_training_take_the_plain_form(called):
    x = torch.randn(2, 8, 7, 7, dtype=torch.float64).requires_grad_()
    chain(x, *gates(8))
    assert not called


@pytest.mark.parametrize("size", [(5, 4), (9, 8)], ids=["tiny", "small"])
@pytest.mark.parametrize("needs", [(True, False, False), (False, True, True), (False, False, True), (False, True, False)])
def test_only_some_need_a_gradient(needs, size, always, called):
    values = (torch.randn(3, 8, *size, dtype=torch.float64), *gates(8))
    here, there = ([value.clone().requires_grad_(need) for value, need in zip(values, needs, strict=True)] for _ in range(2))
    chain(*here).square().sum().backward()
    plain(*there).square().sum().backward()
    for one, two in zip(here, there, strict=True):
        assert (one.grad is None) == (two.grad is None)
        assert one.grad is None or torch.allclose(one.grad, two.grad)
    assert called

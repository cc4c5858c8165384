"""The weighted mean of the pixels, chained as `gc` and `gca` chain it, against the plain equation."""

import pytest
import torch

import zoo.layers.gating as gating
from zoo.layers import scale
from zoo.layers.attend import attend

SMALL = [(1, 8, 1, 1), (3, 8, 2, 2), (17, 8, 7, 7), (1, 8, 14, 9), (3, 4, 33, 40), (2, 1, 5, 5)]
LARGE = [(17, 320, 7, 7), (1, 2304, 14, 9), (3, 80, 33, 40), (9, 64, 33, 40)]
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])


def times(x, weight, bias, u):
    x, context = attend(x, weight, bias)
    return scale(x, torch.sigmoid(u * context))


def plus(x, weight, bias, u):
    x, context = attend(x, weight, bias, alone=False)
    return x + u * context


def mean(x, weight, bias):
    attention = torch.softmax(((x * weight).sum(1) + bias).flatten(1), 1)
    return (x * attention.view(-1, 1, *x.shape[2:])).sum((2, 3), keepdim=True)


def plain_times(x, weight, bias, u):
    return x * torch.sigmoid(u * mean(x, weight, bias))


def plain_plus(x, weight, bias, u):
    return x + u * mean(x, weight, bias)


def parameters(channels, dtype=torch.float64):
    weight = torch.randn(1, channels, 1, 1, dtype=dtype) / channels**0.5
    return weight, torch.randn(1, dtype=dtype), torch.randn(channels, 1, 1, dtype=dtype)


@layouts
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_small_maps_a_sample_at_a_time(shape, layout, always, called, compare, pictures):
    for x in pictures(shape, layout):
        assert gating.samples(x) == 1
        compare(times, plain_times, x, *parameters(shape[1]))
        compare(plus, plain_plus, x, *parameters(shape[1]))
    assert set(called) == {"_Attend", "_Scale"}


@layouts
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_large_maps(shape, layout, called, compare):
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout)
    compare(times, plain_times, x, *parameters(shape[1]))
    compare(plus, plain_plus, x, *parameters(shape[1]))
    assert set(called) == {"_Attend", "_Scale"}


@layouts
def test_float32(layout, called, compare):
    """The gradient of the bias is zero, a softmax being blind to it; in float32 it is what rounding leaves of a long sum."""
    x = torch.randn(17, 320, 7, 7).contiguous(memory_format=layout)
    compare(times, plain_times, x, *parameters(320, torch.float32), tol=2e-3)
    compare(plus, plain_plus, x, *parameters(320, torch.float32), tol=2e-3)
    assert set(called) == {"_Attend", "_Scale"}


@layouts
@pytest.mark.parametrize("chain", [times, plus])
def test_numerically(chain, layout, always, called):
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    inputs = (x, *(value.requires_grad_() for value in parameters(4)))
    assert torch.autograd.gradcheck(chain, inputs)
    assert torch.autograd.gradgradcheck(chain, inputs)
    assert "_Attend" in called


@pytest.mark.parametrize("chain, plain", [(times, plain_times), (plus, plain_plus)], ids=["times", "plus"])
@pytest.mark.parametrize(
    "needs", [(True, False, False, False), (False, True, True, True), (False, False, False, True), (False, True, False, False)]
)
def test_only_some_need_a_gradient(needs, chain, plain, always, called):
    values = (torch.randn(3, 8, 7, 5, dtype=torch.float64), *parameters(8))
    here, there = ([value.clone().requires_grad_(need) for value, need in zip(values, needs, strict=True)] for _ in range(2))
    chain(*here).square().sum().backward()
    plain(*there).square().sum().backward()
    for one, two in zip(here, there, strict=True):
        assert (one.grad is None) == (two.grad is None)
        assert one.grad is None or torch.allclose(one.grad, two.grad)
    assert "_Attend" in called


def test_passing_through_needs_no_gradient_that_x_does_not_need(always):
    weight, bias, _ = parameters(8)
    same, context = attend(torch.randn(2, 8, 5, 5, dtype=torch.float64), weight.requires_grad_(), bias)
    assert context.requires_grad and not same.requires_grad


@pytest.mark.parametrize("chunk", [1, 4 << 20])
@layouts
def test_a_gradient_shared_with_another_summand_is_left_alone(layout, chunk, monkeypatch):
    """Behind a sum both summands are given one tensor; here the other one keeps it as it came."""
    monkeypatch.setattr(gating, "_CHUNK", chunk)
    x = torch.randn(3, 8, 7, 5, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    other = torch.zeros_like(x).requires_grad_()
    given = torch.randn_like(x)
    weight, bias, u = parameters(8)
    x2, context = attend(x, weight, bias, alone=False)
    (x2 + other + u * context).backward(given)
    assert torch.equal(other.grad, given)
    assert not torch.equal(x.grad, given)


def test_without_a_bias(called, compare):
    weight, bias, u = parameters(8)
    x = torch.randn(2, 8, 7, 5, dtype=torch.float64)

    def bare(x, weight, u):
        return times(x, weight, None, u)

    compare(bare, lambda x, weight, u: plain_times(x, weight, 0, u), x, weight, u)
    assert "_Attend" in called


def test_inference(called):
    """A single picture takes the plain form, several the direct one."""
    weight, bias, u = parameters(8)
    for batch in (1, 3):
        x = torch.randn(batch, 8, 7, 5, dtype=torch.float64)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert torch.allclose(times(x, weight, bias, u), plain_times(x, weight, bias, u), rtol=1e-12, atol=1e-12)
        assert bool(called) == (batch > 1)


def test_a_large_logit(always, called):
    x = torch.randn(2, 8, 7, 7, dtype=torch.float64) * 1e4
    weight, bias, _ = parameters(8)
    assert torch.allclose(attend(x, weight, bias)[1], mean(x, weight, bias))
    assert called

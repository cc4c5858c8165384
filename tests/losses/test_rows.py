"""Losses in chunks of rows: value and gradients are those of the whole matrix, in a
fraction of its memory, which tests/deploy/test_loss_memory.py measures."""

import math

import pytest
import torch
import torch.nn.functional as F

from registry import LOSSES
from zoo.losses import rows


def inputs(loss, total, width=16, dtype=torch.float64):
    torch.manual_seed(0)
    a, b = (F.normalize(torch.randn(total, width, dtype=dtype), dim=-1).requires_grad_() for _ in range(2))
    scale = None
    if loss.init_logit_scale is not None:
        scale = torch.tensor([math.exp(loss.init_logit_scale)], dtype=dtype, requires_grad=True)
    bias = None if loss.init_logit_bias is None else torch.tensor([loss.init_logit_bias(total)], dtype=dtype, requires_grad=True)
    return a, b, scale, bias


ONCE = ["align", "clip", "siglip"]  # each logit computed once, by `by_rows`
AGAIN = ["dcl", "triplet", "vsepp"]  # and again in the backward pass, by `summed`

once = pytest.mark.parametrize("loss", ONCE, indirect=True)
again = pytest.mark.parametrize("loss", AGAIN, indirect=True)


@pytest.fixture(params=[*ONCE, *AGAIN])
def loss(request):
    return LOSSES[request.param]


@pytest.fixture
def small(monkeypatch):
    """Chunks of three rows of a batch of 32, the last one shorter."""
    monkeypatch.setattr(rows, "WHOLE", 2)
    monkeypatch.setattr(rows, "_NUMBERS", 100)
    return monkeypatch


def both(loss, given, ids, monkeypatch):
    """Value and gradients of the whole matrix, and by rows."""
    a, b, scale, bias = given
    leaves = [each for each in given if each is not None]
    found = []
    for whole in (1 << 30, 2):
        monkeypatch.setattr(rows, "WHOLE", whole)
        value = loss(a, b, logit_scale=scale, logit_bias=bias, ids=ids)
        found.append([value.detach(), *torch.autograd.grad(value * 3, leaves)])
    return found


@pytest.mark.parametrize("ids", [None, "some", "all"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_the_same_as_the_whole_matrix(loss, ids, dtype, near, small, monkeypatch):
    total = 32
    ids = {None: None, "some": torch.arange(total) % 20, "all": torch.zeros(total, dtype=torch.long)}[ids]
    whole, by_rows = both(loss, inputs(loss, total, dtype=dtype), ids, monkeypatch)
    for one, other in zip(whole, by_rows, strict=True):
        assert one.shape == other.shape and one.dtype is other.dtype
        assert (one - other).norm() <= near * one.norm().clamp(min=1e-2), (one, other)


def test_gradients_are_those_of_the_value(loss, small):
    given = inputs(loss, 7, width=4)
    ids = torch.tensor([0, 1, 0, 2, 3, 3, 4])

    def value(a, b, scale=None, bias=None):
        return loss(a, b, logit_scale=scale, logit_bias=bias, ids=ids)

    assert torch.autograd.gradcheck(value, [each for each in given if each is not None])


def test_float32_of_a_larger_batch(loss, monkeypatch):
    monkeypatch.setattr(rows, "_NUMBERS", 700 * 1000)
    whole, by_rows = both(loss, inputs(loss, 2000, width=64, dtype=torch.float32), torch.arange(2000) // 2, monkeypatch)
    for one, other in zip(whole, by_rows, strict=True):
        assert (one - other).norm() <= 5e-6 * one.norm()


def test_a_side_that_needs_no_gradient(loss, small):
    a, b, scale, bias = inputs(loss, 9)
    still = None if scale is None else scale.detach()
    value = loss(a, b.detach(), logit_scale=still, logit_bias=bias)
    value.backward()
    assert a.grad is not None and b.grad is None and (scale is None or scale.grad is None)
    with torch.no_grad():
        assert torch.allclose(loss(a, b, logit_scale=scale, logit_bias=bias), value)


@once
def test_twice_is_refused_not_wrong(loss, small):
    a, b, scale, bias = inputs(loss, 9)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss(a, b, logit_scale=scale, logit_bias=bias), a, create_graph=True)


@again
def test_twice_is_right(loss, small):
    """A chunk that is computed again can be differentiated again: the same second derivatives as of the whole matrix."""
    a, b, _, _ = inputs(loss, 9)
    found = []
    for whole in (2, 1 << 30):
        small.setattr(rows, "WHOLE", whole)
        (first,) = torch.autograd.grad(loss(a, b), a, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), b)[0])
    torch.testing.assert_close(*found)
    assert found[0].any()

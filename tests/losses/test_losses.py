"""The contract of a loss, over the registry."""

import math

import pytest
import torch
import torch.nn.functional as F

import zoo.losses  # noqa: F401  # fills the registry
from registry import LOSSES


def embeddings(rows, width=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, dtype=dtype, generator=generator), dim=-1)


@pytest.fixture(params=sorted(LOSSES))
def loss(request):
    return LOSSES[request.param]


def start(loss, rows, dtype=torch.float64):
    bias = None if loss.init_logit_bias is None else torch.tensor([loss.init_logit_bias(rows)], dtype=dtype)
    return {"logit_scale": torch.tensor([math.exp(loss.init_logit_scale)], dtype=dtype), "logit_bias": bias}


def test_the_start_is_finite_for_any_batch(loss):
    for rows in (1, 2, 65536):
        assert loss.init_logit_bias is None or math.isfinite(loss.init_logit_bias(rows))
    assert 0 < loss.init_logit_scale < math.log(100)


@pytest.mark.parametrize("ids", [None, [0, 1, 0, 2, 1]])
def test_gradients_are_those_of_the_value(loss, ids):
    a, b, given = embeddings(5), embeddings(5, seed=1), start(loss, 5)
    given = [a, b, given["logit_scale"], given["logit_bias"]]
    inputs = [each.requires_grad_() for each in given if each is not None]
    ids = None if ids is None else torch.tensor(ids)

    def value(a, b, scale, bias=None):
        return loss(a, b, logit_scale=scale, logit_bias=bias, ids=ids)

    assert torch.autograd.gradcheck(value, inputs)


def test_one_row(loss):
    a, b = embeddings(1).requires_grad_(), embeddings(1, seed=1).requires_grad_()
    for ids in (None, torch.tensor([7])):
        value = loss(a, b, ids=ids, **start(loss, 1))
        assert value.ndim == 0 and value.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (a, b)))


def test_ids_that_all_differ_are_no_ids(loss):
    a, b = embeddings(6), embeddings(6, seed=1)
    with_ids = loss(a, b, ids=torch.tensor([5, 3, 9, 100, -1, 0]), **start(loss, 6))
    torch.testing.assert_close(with_ids, loss(a, b, **start(loss, 6)))


def test_the_two_sides_are_equal_and_rows_have_no_order(loss):
    a, b, ids, order = embeddings(6), embeddings(6, seed=1), torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([3, 1, 5, 0, 2, 4])
    value = loss(a, b, ids=ids, **start(loss, 6))
    torch.testing.assert_close(loss(b, a, ids=ids, **start(loss, 6)), value)
    torch.testing.assert_close(loss(a[order], b[order], ids=ids[order], **start(loss, 6)), value)


def test_partners_are_better_than_strangers(loss):
    a = embeddings(6)
    assert loss(a, a, **start(loss, 6)) < loss(a, a.roll(1, 0), **start(loss, 6))


def test_ids_stop_a_row_from_pushing_its_like_away(loss):
    """Rows 0 and 1 are one thing: b_1 must be pulled to a_0 with ids, and is pushed away from it without."""
    a, b = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64).requires_grad_()
    pull = {}
    for name, ids in (("ids", torch.tensor([0, 0, 1, 2])), ("none", None)):
        (gradient,) = torch.autograd.grad(loss(a, b, ids=ids, **start(loss, 4)), b)
        pull[name] = -gradient[1, 0]
    assert pull["ids"] > 0 > pull["none"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    a, b = embeddings(32, 64, torch.float32).to(dtype), embeddings(32, 64, torch.float32, seed=1).to(dtype)
    expected = loss(a.double(), b.double(), **start(loss, 32))
    value = loss(a, b, **start(loss, 32, dtype=torch.float32))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, atol=1e-5, rtol=1e-5)


def test_autocast_does_not_reach_the_logits(loss):
    a, b = embeddings(32, 64, torch.float32), embeddings(32, 64, torch.float32, seed=1)
    plain = loss(a, b, **start(loss, 32, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(a, b, **start(loss, 32, torch.float32)), plain)
        assert not torch.equal(a @ b.T, plain.new_tensor(a.double().numpy() @ b.double().numpy().T)), "autocast was off: nothing tested"

"""The contract of a head, over the registry."""

import pytest
import torch

import zoo.heads  # noqa: F401  # fills the registry
from registry import HEADS


@pytest.fixture(params=sorted(HEADS))
def head(request):
    torch.manual_seed(0)
    return HEADS[request.param](24, 16)


def test_shape_and_gradients(head):
    x = torch.randn(5, 24, requires_grad=True)
    y = head(x)
    assert y.shape == (5, 16)
    y.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


def test_is_not_normalised(head):
    x = torch.randn(5, 24)
    assert (head(10 * x).norm(dim=-1) > 2 * head(x).norm(dim=-1)).all()


def test_one_row_in_training_mode_and_zeros(head):
    assert head.train()(torch.randn(1, 24)).isfinite().all()
    assert head(torch.zeros(2, 24)).isfinite().all()


def test_half_precision(head):
    assert head.bfloat16()(torch.randn(3, 24, dtype=torch.bfloat16)).dtype == torch.bfloat16

"""Generalised mean pooling by hand, between the mean and the maximum, and finite where a power is not."""

import numpy as np
import pytest
import torch

from zoo.heads import GeM


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, 7.5])
def test_the_papers_equation(p):
    head = GeM(6, 4, p=p).double()
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    pooled = np.maximum(x.numpy(), 0).__pow__(p).mean((2, 3)) ** (1 / p)
    assert np.allclose(head.pool(x).detach().numpy(), pooled, rtol=1e-6, atol=1e-12)
    assert np.allclose(head(x).detach().numpy(), pooled @ head.proj.weight.detach().numpy().T, rtol=1e-6, atol=1e-12)


def test_the_gradient_of_p():
    """d/dp of the equation, as the difference of two values near by."""
    x = torch.rand(2, 6, 5, 4, dtype=torch.float64) + 0.1
    head = GeM(6, 4).double()
    head.pool(x).sum().backward()
    above, below = ((x ** (3 + step)).mean((2, 3)) ** (1 / (3 + step)) for step in (1e-5, -1e-5))
    torch.testing.assert_close(head.p.grad.item(), ((above - below).sum() / 2e-5).item(), rtol=1e-6, atol=0)


def test_from_the_mean_to_the_maximum():
    x = torch.rand(2, 6, 5, 4)
    torch.testing.assert_close(GeM(6, 4, p=1).pool(x), x.mean((2, 3)))
    torch.testing.assert_close(GeM(6, 4, p=1000).pool(x), x.amax((2, 3)), rtol=0.01, atol=0)


@pytest.mark.parametrize("p", [0.01, 3.0, 100.0, -2.0])
@pytest.mark.parametrize("values", [0.0, -0.2, 1e-20, 1e-7, 1e5])
def test_finite_with_any_power(p, values):
    """-0.2: all of a SiLU's output may be negative. The plain equation is not finite in most of these (see below)."""
    head = GeM(6, 4)
    torch.nn.init.constant_(head.p, p)  # wherever training has taken it
    x = torch.full((2, 6, 3, 3), values)
    x[0, 0, 0, 0] = 2.0
    x.requires_grad_()
    y = head(x)
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all() and head.p.grad.isfinite().all()


@pytest.mark.parametrize(("p", "value"), [(3.0, -0.2), (100.0, 1e-7), (100.0, 1e5)])
def test_the_plain_equation_is_not(p, value):
    x = torch.full((9,), value, requires_grad=True)
    y = x.pow(p).mean().pow(1 / p)
    y.backward()
    assert not (y.isfinite() and x.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_the_mean_in_float32(dtype):
    """In float16 the stand-in for zero would be zero itself, and 64**3 would overflow."""
    x = (64 * torch.randn(2, 6, 5, 4)).to(dtype).requires_grad_()
    head = GeM(6, 4).to(dtype)
    found = head.pool(x)
    assert found.dtype == dtype and torch.equal(found, GeM(6, 4).pool(x.float()).to(dtype))
    found.sum().backward()
    assert x.grad.isfinite().all()


def test_negatives_count_as_zero():
    x = torch.randn(2, 6, 5, 4)
    head = GeM(6, 4)
    torch.testing.assert_close(head(x), head(x.clamp(min=0)))


def test_small_features_are_kept():
    """A network that has not learned its statistics computes 1e-7 in eval mode; the usual floor of 1e-6 would make all pictures one."""
    x = torch.rand(2, 6, 5, 4)
    torch.testing.assert_close(GeM(6, 4).pool(1e-7 * x), 1e-7 * (x**3).mean((2, 3)) ** (1 / 3), rtol=1e-4, atol=0)


def test_what_all_channels_share_is_not_seen_at_the_start():
    torch.manual_seed(0)
    head, x = GeM(24, 16), torch.rand(2, 24, 5, 4)
    torch.testing.assert_close(head.proj(head.pool(x) + 5), head.proj(head.pool(x)))


def test_p_is_learned_and_not_decayed():
    head = GeM(6, 4)
    assert head.p.item() == 3 and head.p.requires_grad and head.no_weight_decay() == {"p"}


def test_a_power_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected a positive number such as 3 .*, got -1"):
        GeM(6, 4, p=-1)

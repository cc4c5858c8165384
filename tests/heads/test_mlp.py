"""The mlp head by hand, and its dropout."""

import torch

from zoo.heads import MLP


def test_the_equation():
    head = MLP(6, 4).double()
    inner, outer = head.parameters()
    assert inner.shape == (8, 6) and outer.shape == (4, 8)
    x = torch.randn(3, 6, dtype=torch.float64)
    hidden = x @ inner.T
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(head(x), hidden @ outer.T)


def test_dropout_is_for_training_alone():
    head, x = MLP(6, 4, dropout=0.5), torch.randn(64, 6)
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))

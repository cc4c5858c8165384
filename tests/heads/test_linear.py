"""The linear head is a matrix, and keeps the length of a feature at the start."""

import torch

from zoo.heads import Linear


def test_is_one_matrix():
    head = Linear(6, 4)
    (weight,) = head.parameters()
    x = torch.randn(3, 6)
    torch.testing.assert_close(head(x), torch.einsum("bi,oi->bo", x, weight))


def test_starts_at_the_length_of_the_feature():
    torch.manual_seed(0)
    x = torch.randn(64, 1280)
    ratio = Linear(1280, 1280)(x).norm() / x.norm()
    assert 0.95 < ratio < 1.05

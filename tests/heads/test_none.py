"""No head gives back what it gets, and refuses to change the width."""

import pytest
import torch

from zoo.heads import NoHead


def test_is_the_identity():
    head, x = NoHead(6, 6), torch.randn(3, 6)
    assert head(x) is x and not list(head.parameters())


def test_another_width_is_refused():
    with pytest.raises(ValueError, match="expected embed_dim=1280, the width of the tower's features, got 256; linear maps"):
        NoHead(1280, 256)

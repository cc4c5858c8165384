"""The group norm is torch's, except that torch refuses a group of one value."""

import pytest
import torch
from torch import nn

from zoo.layers.group_norm import GroupNorm


@pytest.mark.parametrize("shape", [(2, 12, 5, 3), (1, 12, 7), (1, 12, 1, 2)])
def test_equals_torchs(shape):
    theirs, ours = nn.GroupNorm(4, 12), GroupNorm(4, 12)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape)
    assert torch.equal(ours(x), theirs(x))


def test_one_value_is_the_bias():
    theirs, ours = nn.GroupNorm(8, 8), GroupNorm(8, 8)
    nn.init.normal_(ours.bias)
    x = torch.randn(1, 8, 1, 1)
    assert torch.allclose(ours(x).flatten(), ours.bias, atol=1e-4)
    with pytest.raises(ValueError, match="more than 1 value"):
        theirs(x)

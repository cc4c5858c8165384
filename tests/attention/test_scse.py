"""`scse` against the paper's equations in plain loops, with both ways of fusing."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import SCSE


@pytest.mark.parametrize("fuse", ["max", "add"])
@pytest.mark.parametrize("rd_ratio, channels", [(1 / 2, 24), (1 / 6, 24), (1 / 2, 9)])
def test_the_papers_equations(fuse, rd_ratio, channels):
    gate = SCSE(channels, rd_ratio=rd_ratio, fuse=fuse).double()
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    x = torch.randn(3, channels, 5, 4, dtype=torch.float64)
    picture = x.numpy()
    wanted = np.empty_like(picture)
    for b in range(3):
        hidden = np.maximum(value["fc1.weight"] @ picture[b].mean((1, 2)) + value["fc1.bias"], 0)
        logits = value["fc2.weight"] @ hidden + value["fc2.bias"]
        for i, j in np.ndindex(5, 4):
            spatial = 1 / (1 + math.exp(-(value["conv.weight"][0, :, 0, 0] @ picture[b, :, i, j] + value["conv.bias"][0])))
            for c in range(channels):
                both = picture[b, c, i, j] / (1 + math.exp(-logits[c])), picture[b, c, i, j] * spatial
                wanted[b, c, i, j] = max(both) if fuse == "max" else sum(both)
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


def test_the_maximum_is_of_the_pictures_not_of_the_gates():
    """Below zero the smaller gate wins."""
    gate = SCSE(8)
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(gate.conv.bias, 2.0)
    two = 1 / (1 + math.exp(-2))
    x = torch.randn(2, 8, 3, 3)
    assert torch.allclose(gate(x), torch.where(x > 0, x * two, x / 2))


@pytest.mark.parametrize("channels, hidden", [(8, 4), (24, 12), (1152, 576)])
def test_the_authors_width(channels, hidden):
    gate = SCSE(channels)
    assert gate.fc1.out_features == hidden and isinstance(gate.act, nn.ReLU) and gate.fuse == "max"
    assert SCSE(channels, rd_ratio=0.01 / channels).fc1.out_features == 1


@pytest.mark.parametrize("fuse", ["mean", "", None])
def test_other_ways_of_fusing_are_refused(fuse):
    with pytest.raises(ValueError, match=f'"max" or "add", got {fuse!r}'):
        SCSE(24, fuse=fuse)


def test_calm_is_one_half_or_one():
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(SCSE(24, calm=True)(x), x / 2)
    assert torch.equal(SCSE(24, calm=True, fuse="add")(x), x)

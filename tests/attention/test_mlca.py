"""`mlca` against the paper's equations in plain loops; the pooling to and from the grid at sizes that it does not divide; the seams."""

import math

import numpy as np
import pytest
import torch

from zoo.attention import ECA, MLCA


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def window(index: int, size: int, out: int) -> slice:
    """Of adaptive pooling: the inputs that overlap the index-th of `out` equal parts of `size`."""
    return slice(math.floor(index * size / out), math.ceil((index + 1) * size / out))


def pool(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    pooled = np.empty((*maps.shape[:-2], height, width))
    for i in range(height):
        for j in range(width):
            pooled[..., i, j] = maps[..., window(i, maps.shape[-2], height), window(j, maps.shape[-1], width)].mean((-2, -1))
    return pooled


def along(vector: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The convolution with zeros beyond the ends."""
    result = np.zeros_like(vector)
    for at in range(len(vector)):
        for j in range(len(w)):
            if 0 <= at + j - len(w) // 2 < len(vector):
                result[at] += w[j] * vector[at + j - len(w) // 2]
    return result


def reference(gate: MLCA, picture: np.ndarray, size: int, share: float) -> np.ndarray:
    w_global = gate.conv_global.weight.detach().numpy()[0, 0]
    w_local = gate.conv_local.weight.detach().numpy()[0, 0]
    result = np.empty_like(picture)
    for b, x in enumerate(picture):
        channels, height, width = x.shape
        grid = pool(x, size, size)
        line = np.array([grid[c, i, j] for i in range(size) for j in range(size) for c in range(channels)])
        line = along(line, w_local)
        local = np.array([[[line[(i * size + j) * channels + c] for j in range(size)] for i in range(size)] for c in range(channels)])
        whole = along(grid.mean((1, 2)), w_global)
        result[b] = x * pool(share * sigmoid(local) + (1 - share) * sigmoid(whole)[:, None, None], height, width)
    return result


@pytest.mark.parametrize("height, width", [(14, 9), (5, 10), (3, 2), (1, 1), (6, 4)])
@pytest.mark.parametrize("kwargs, size, share", [({}, 5, 0.5), ({"local_size": 3, "local_weight": 0.2, "kernel_size": 7}, 3, 0.2)])
def test_the_papers_equations(kwargs, size, share, height, width):
    gate = MLCA(16, **kwargs).double()
    x = torch.randn(2, 16, height, width, dtype=torch.float64)
    assert np.allclose(gate(x).detach().numpy(), reference(gate, x.numpy(), size, share), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [8, 24, 32, 144, 672, 1152, 2304])
def test_ecas_width(channels):
    eca, gate = ECA(channels), MLCA(channels)
    assert gate.conv_local.weight.shape == gate.conv_global.weight.shape == eca.conv.weight.shape
    assert gate.conv_local.bias is None and gate.conv_global.bias is None


def test_without_the_local_share_it_is_eca():
    """On a map that the grid divides, where the mean of the means is the mean."""
    eca, gate = ECA(24), MLCA(24, local_weight=0)
    gate.conv_global.load_state_dict(eca.conv.state_dict())
    x = torch.randn(2, 24, 10, 5)
    assert torch.allclose(gate(x), eca(x), atol=1e-6)
    assert not torch.allclose(MLCA(24, local_weight=1)(x), eca(x), atol=1e-3)


def test_parts_meet_at_their_seams():
    """The last channel of a part is the first channel's neighbour in the next part, as the parts lie end to end."""
    gate = MLCA(8)
    torch.nn.init.ones_(gate.conv_local.weight)
    x = torch.ones(1, 8, 5, 5)
    other = x.clone()
    other[0, 7, 0, 0] = 2
    moved = (gate(other) / other - gate(x) / x)[0].abs() > 1e-4
    assert moved[6:, 0, 0].all() and moved[0, 0, 1] and not moved[1, 0, 1]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"kernel_size": 2}, "odd number.* got 2"),
        ({"kernel_size": 0}, "odd number.* got 0"),
        ({"local_weight": 1.5}, "from 0 to 1, got 1.5"),
        ({"local_weight": -0.1}, "from 0 to 1, got -0.1"),
        ({"local_size": 0}, "positive number.* got 0"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MLCA(24, **kwargs)


def test_calm_is_one_half():
    x = torch.randn(2, 24, 7, 5)
    assert torch.allclose(MLCA(24, calm=True)(x), x / 2, rtol=0, atol=1e-6)

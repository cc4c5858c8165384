"""`fca` against the paper's equations in plain loops, the transform's own properties, its frequencies and grids at other widths."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import FCA

TOP16 = [(0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0), (5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3), (3, 5), (2, 2)]


def pool(values: np.ndarray, grid: int) -> np.ndarray:
    """Adaptive average pooling: cell i averages floor(i n / g) to ceil((i + 1) n / g)."""
    height, width = values.shape
    out = np.empty((grid, grid))
    for i in range(grid):
        for j in range(grid):
            rows = slice(i * height // grid, -(-(i + 1) * height // grid))
            columns = slice(j * width // grid, -(-(j + 1) * width // grid))
            out[i, j] = values[rows, columns].mean()
    return out


@pytest.mark.parametrize(
    "channels, grid, size", [(32, 7, (7, 7)), (32, 7, (9, 5)), (32, 14, (14, 14)), (32, 14, (4, 3)), (24, 7, (1, 1)), (8, 10, (10, 10))]
)
def test_the_papers_equations(channels, grid, size):
    gate = FCA(channels, grid=grid, dtype=torch.float64)
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    w1, w2 = (layer.weight.detach().numpy()[:, :, 0, 0] for layer in (gate.fc1, gate.fc2))
    frequencies = {32: 16, 24: 12, 8: 8}[channels]
    wanted = np.empty(x.shape)
    for b in range(2):
        f = np.empty(channels)
        for c in range(channels):
            u, v = (each * (grid // 7) for each in TOP16[c // (channels // frequencies)])
            pooled = pool(x[b, c].numpy(), grid)
            total = 0.0
            for i in range(grid):
                for j in range(grid):
                    total += pooled[i, j] * math.cos(math.pi * u * (i + 0.5) / grid) * math.cos(math.pi * v * (j + 0.5) / grid)
            f[c] = total / grid * (math.sqrt(2) if u else 1) * (math.sqrt(2) if v else 1)
        z = w2 @ np.maximum(w1 @ f, 0)
        wanted[b] = x[b].numpy() / (1 + np.exp(-z))[:, None, None]
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("frequencies", [16, 32])
def test_the_waves_are_orthonormal(frequencies):
    waves = FCA(32, frequencies=frequencies, dtype=torch.float64).waves.flatten(1)
    assert torch.allclose(waves @ waves.T, torch.eye(frequencies, dtype=torch.float64), atol=1e-12)


def test_one_frequency_is_squeeze_and_excitation():
    """The lowest one is the mean, times the side of the grid."""
    gate = FCA(24, frequencies=1)
    x = torch.randn(2, 24, 14, 14)
    s = torch.sigmoid(gate.fc2(gate.fc1(7 * x.mean((2, 3), keepdim=True)).relu()))
    assert torch.allclose(gate(x), x * s, atol=1e-6)


@pytest.mark.parametrize("channels, frequencies", [(8, 8), (16, 16), (24, 12), (40, 10), (144, 16), (672, 16), (1152, 16), (8 * 67, 8)])
def test_the_papers_frequencies(channels, frequencies):
    gate = FCA(channels)
    assert gate.waves.shape == (frequencies, 1, 7, 7)
    assert gate.fc1.out_channels == max(1, channels // 16) and isinstance(gate.act, nn.ReLU)


def test_the_papers_grids():
    assert {channels: FCA(channels).grid for channels in (32, 64, 128, 256, 512, 1152)} == {
        32: 7,
        64: 56,
        128: 28,
        256: 14,
        512: 7,
        1152: 7,
    }
    assert FCA(64, grid=7).grid == 7


def test_a_file_holds_the_two_layers_alone():
    assert list(FCA(24).state_dict()) == ["fc1.weight", "fc2.weight"]


def test_calm_is_one_half():
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(FCA(24, calm=True)(x), x / 2)


def test_bad_arguments_are_refused():
    for frequencies in (0, 33):
        with pytest.raises(ValueError, match=f"1 to 32, got {frequencies}"):
            FCA(64, frequencies=frequencies)
    for grid in (6, 0, -7):
        with pytest.raises(ValueError, match=f"7 or more.* got {grid}"):
            FCA(64, grid=grid)

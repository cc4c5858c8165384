"""`mca` against the paper's equations in float64 NumPy loops, one place of a line at a time; the kernel's rule in integers."""

import numpy as np
import pytest
import torch

from zoo.attention import MCA


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def line_gate(slices: list[np.ndarray], mix: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """From what stands at each place of the line to its gate."""
    squeezed = []
    for values in slices:
        mean, std = values.mean(), values.std(ddof=1) if values.size > 1 else 0.0
        squeezed.append(0.5 * (mean + std) + sigmoid(mix[0]) * mean + sigmoid(mix[1]) * std)
    half = len(kernel) // 2
    return sigmoid(np.correlate(np.pad(squeezed, half), kernel, "valid"))


def reference(gate: MCA, picture: np.ndarray) -> np.ndarray:
    value = {key: tensor.numpy() for key, tensor in gate.state_dict().items()}
    gated = np.empty_like(picture)
    for b, one in enumerate(picture):
        total = np.zeros_like(one)
        for axis, name in enumerate(("channel", "height", "width")):
            slices = [one.take(n, axis) for n in range(one.shape[axis])]
            line = line_gate(slices, value[f"{name}.mix"], value[f"{name}.conv.weight"][0, 0])
            total += np.moveaxis(np.moveaxis(one, axis, -1) * line, -1, axis)
        gated[b] = total / 3
    return gated


@pytest.mark.parametrize("kwargs", [{}, {"kernel_size": 5, "spatial_kernel_size": 1}], ids=str)
@pytest.mark.parametrize("shape", [(3, 40, 6, 5), (2, 40, 1, 4)])
def test_the_papers_equations(kwargs, shape):
    gate = MCA(40, **kwargs).double()
    x = torch.randn(shape, dtype=torch.float64) * 2 + 1
    assert np.allclose(gate(x).detach().numpy(), reference(gate, x.numpy()), rtol=0, atol=1e-12)


def test_one_pixel_has_no_deviation():
    gate = MCA(40).double()
    x = torch.randn(2, 40, 1, 1, dtype=torch.float64)
    assert np.allclose(gate(x).detach().numpy(), reference(gate, x.numpy()), rtol=0, atol=1e-5)


def test_a_large_mean_hides_no_deviation():
    x = torch.randn(2, 40, 6, 5) * 0.01 + 100
    variance = x.double().var((2, 3), correction=0)
    naive = x.square().mean((2, 3)) - x.mean((2, 3)).square()
    assert not torch.allclose(naive.double(), variance, rtol=0.5), "a mean of squares less a squared mean is noise here"

    gate = MCA(40)
    for line in (gate.channel, gate.height, gate.width):
        line.conv.weight.data = torch.tensor([[[-1.0, 0.0, 1.0]]])  # a gate of differences, which does not saturate
    wanted = reference(gate.double(), x.double().numpy())
    assert np.allclose(gate.float()(x).detach().numpy(), wanted, rtol=2e-5)


def nearest_odd(channels: int) -> int:
    """|log2(C) - 1| / 1.5 rounded: the whole k with 2^(1.5 k - 0.75) < C / 2 < 2^(1.5 k + 0.75), in fourth powers; less one if even."""
    k = 0
    while 2 ** (6 * k + 3) < (channels / 2) ** 4:
        k += 1
    return max(1, k if k % 2 else k - 1)


def test_the_papers_width():
    widths = (8, 16, 24, 32, 40, 64, 144, 240, 672, 1152, 2304)
    assert [MCA(channels).channel.conv.kernel_size[0] for channels in widths] == [1, 1, 1, 3, 3, 3, 3, 5, 5, 5, 7]
    for channels in range(8, 4097, 8):
        gate = MCA(channels, device="meta")
        assert gate.channel.conv.kernel_size == (nearest_odd(channels),), channels
        assert gate.height.conv.kernel_size == gate.width.conv.kernel_size == (3,)
        assert gate.channel.conv.bias is None


def test_gamma_and_lambd():
    assert MCA(512, gamma=2, lambd=1).channel.conv.kernel_size == (7,)


def test_shares_start_uniform():
    gates = [MCA(8) for _ in range(100)]
    shares = torch.cat([line.mix for gate in gates for line in (gate.channel, gate.height, gate.width)])
    assert shares.min() >= 0 and shares.max() < 1 and 0.45 < shares.mean() < 0.55 and shares.std() > 0.25


@pytest.mark.parametrize("name", ["kernel_size", "spatial_kernel_size"])
@pytest.mark.parametrize("size", [2, 0, -3])
def test_even_kernels_are_refused(name, size):
    with pytest.raises(ValueError, match=f"mca {name}: .*odd number.* got {size}"):
        MCA(24, **{name: size})


def test_calm_is_one_half():
    x = torch.randn(2, 24, 7, 5)
    assert torch.allclose(MCA(24, calm=True)(x), x / 2, atol=1e-6)

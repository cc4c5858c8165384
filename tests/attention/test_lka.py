"""`lka` against the paper's equation in NumPy loops; how far it sees; the authors' start."""

import math

import numpy as np
import pytest
import torch

from zoo.attention import LKA


def depthwise(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, dilation: int) -> np.ndarray:
    reach, (_, height, width) = kernel.shape[-1] // 2, x.shape
    y = np.tile(bias[:, None, None], (1, height, width))
    for i in range(height):
        for j in range(width):
            for a in range(-reach, reach + 1):
                for b in range(-reach, reach + 1):
                    row, column = i + a * dilation, j + b * dilation
                    if 0 <= row < height and 0 <= column < width:
                        y[:, i, j] += kernel[:, 0, reach + a, reach + b] * x[:, row, column]
    return y


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_the_papers_equation(train):
    gate = LKA(8).double().train(train)
    for layer in (gate.local, gate.wide, gate.point):
        torch.nn.init.normal_(layer.bias)
    value = {key: tensor.detach().numpy() for key, tensor in gate.state_dict().items()}
    x = torch.randn(2, 8, 13, 9, dtype=torch.float64)
    wanted = np.empty(x.shape)
    for b, picture in enumerate(x.numpy()):
        near = depthwise(picture, value["local.weight"], value["local.bias"], 1)
        far = depthwise(near, value["wide.weight"], value["wide.bias"], 3)
        wanted[b] = picture * (np.tensordot(value["point.weight"][:, :, 0, 0], far, 1) + value["point.bias"][:, None, None])
    assert np.allclose(gate(x).detach().numpy(), wanted, rtol=0, atol=1e-10)


def test_it_sees_eleven_pixels_each_way():
    gate = LKA(8)
    x = torch.ones(1, 8, 31, 31).requires_grad_()
    (gate(x) / x.detach())[0, :, 15, 15].sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero()
    assert seen.min() == 4 and seen.max() == 26, "5 pixels wide, then 7 of them in steps of 3: 23"


def test_the_authors_start():
    gate = LKA(512)
    for layer, fan_out in ((gate.local, 25), (gate.wide, 49), (gate.point, 512)):
        assert math.isclose(layer.weight.detach().std(), math.sqrt(2 / fan_out), rel_tol=0.03) and not layer.bias.any()


def test_calm_changes_nothing():
    x = torch.randn(2, 24, 7, 5)
    assert torch.equal(LKA(24, calm=True)(x), x)

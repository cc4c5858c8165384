"""The n - 1 over pixels is torch's own, one pixel has no variance, and a trace holds for every size."""

import pytest
import torch
from torch import nn

from zoo.layers.pixels import degrees_of_freedom


class Variance(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean((2, 3), keepdim=True)).square().sum((2, 3)) / degrees_of_freedom(x)


@pytest.mark.parametrize("size", [(2, 3), (1, 2), (7, 7)])
def test_is_torchs_unbiased_variance(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert torch.allclose(Variance()(x), x.var((2, 3)), rtol=1e-12)


def test_one_pixel_has_no_variance():
    x = torch.randn(2, 3, 1, 1)
    assert torch.equal(Variance()(x), torch.zeros(2, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_traced_and_scripted_it_takes_every_size():
    for module in (torch.fx.symbolic_trace(Variance()), torch.jit.script(Variance())):
        for size in ((4, 5), (1, 1)):
            x = torch.randn(2, 3, *size)
            assert torch.allclose(module(x), Variance()(x))

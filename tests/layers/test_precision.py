"""Half precision becomes float32; what is wider stays, and the function survives a tracer and a script."""

import pytest
import torch
from torch import nn

from zoo.layers.precision import at_least_float32


class Energy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return at_least_float32(x).square().sum()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_becomes_float32(dtype):
    x = torch.full((300,), 30.0, dtype=dtype)
    assert Energy()(x) == 270_000
    assert torch.full((300,), 30.0, dtype=torch.float16).square().cumsum(0)[-1].isinf(), "what it is for"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_is_the_same_tensor(dtype):
    x = torch.randn(3, dtype=dtype)
    assert at_least_float32(x) is x


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_traced_and_scripted_with_one_type_it_takes_another():
    for module in (torch.fx.symbolic_trace(Energy()), torch.jit.script(Energy())):
        for dtype in (torch.float32, torch.float16, torch.float64):
            y = module(torch.ones(3, dtype=dtype))
            assert y == 3 and y.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)

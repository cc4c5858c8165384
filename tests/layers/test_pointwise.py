"""The 1x1 convolution against torch's, in both memory orders."""

import pytest
import torch
from torch import nn

from zoo.layers.pointwise import PointwiseConv2d


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_is_a_convolution(layout, bias):
    conv = PointwiseConv2d(6, 4, bias=bias).double()
    plain = nn.Conv2d(6, 4, 1, bias=bias).double()
    plain.load_state_dict(conv.state_dict(), strict=True)
    for shape in ((3, 6, 5, 1), (2, 6, 1, 1), (1, 6, 3, 4)):
        x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout)
        assert torch.allclose(conv(x), plain(x), rtol=0, atol=1e-13)
        part = x[:, :, 1:]
        if part.numel():
            assert torch.allclose(conv(part), plain(part), rtol=0, atol=1e-13)


def test_a_trace_holds_for_both_orders():
    conv = PointwiseConv2d(6, 4)
    traced = torch.fx.symbolic_trace(conv)
    x = torch.randn(2, 6, 5, 1)
    for each in (x, x.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(traced(each), conv(each))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_derivatives(layout, bias):
    conv = PointwiseConv2d(6, 4, bias=bias).double()
    names, values = zip(*conv.named_parameters(), strict=True)

    def run(x, *values):
        return torch.func.functional_call(conv, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(2, 6, 3, 2, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    values = [value.detach().clone().requires_grad_() for value in values]
    assert torch.autograd.gradcheck(run, (x, *values))
    assert torch.autograd.gradgradcheck(run, (x, *values))

"""Depthwise convolutions of tiny maps as matrix products, while a network trains on a CPU.

A picture of 32 pixels is 4, 2 and 1 pixels wide in the later stages of an EfficientNet, and there the backward pass of a depthwise
convolution takes torch's CPU kernels ten times as long as the arithmetic is worth: two thirds of a whole training step of B0. On such a map
the convolution of a channel is a matrix, [B, H W] @ [H W, H' W'], of the kernel's weights and zeros. Same result up to rounding.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_PIXELS = 16  # of a map; above, torch's own kernels are as fast


@functools.cache
def _places(height: int, width: int, kernel: int, stride: int) -> torch.Tensor:
    """[k * k, H * W * H' * W']: 1 where that weight of the kernel takes that pixel to that one of the result; padding k // 2."""
    reach = kernel // 2
    rows, columns = (range(0, size, stride) for size in (height, width))
    places = torch.zeros(kernel, kernel, height, width, len(rows), len(columns))
    for to_row, row in enumerate(rows):
        for to_column, column in enumerate(columns):
            for i in range(max(0, row - reach), min(height, row + reach + 1)):
                for j in range(max(0, column - reach), min(width, column + reach + 1)):
                    places[i - row + reach, j - column + reach, i, j, to_row, to_column] = 1
    return places.flatten(2).flatten(0, 1)


class _Products(torch.autograd.Function):
    """`torch.bmm`, whose backward pass copies matrix by matrix when the gradient comes in another order."""

    @staticmethod
    def forward(ctx, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return torch.bmm(a, b)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = ctx.saved_tensors
        grad = grad.contiguous()
        return torch.bmm(grad, b.transpose(1, 2).contiguous()), torch.bmm(a.transpose(1, 2).contiguous(), grad)


class TinyMapConv2d(nn.Conv2d):
    """A depthwise convolution that takes the short way on tiny maps; made of an `nn.Conv2d` by `tiny_maps`, and turned back."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = input.shape
        if height * width > _PIXELS or input.dtype != torch.float32 or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        kernel, stride = self.kernel_size[0], self.stride[0]
        if height == width == 1:
            return input * self.weight[:, 0, kernel // 2, kernel // 2].view(1, -1, 1, 1)
        places = _places(height, width, kernel, stride)
        matrix = (self.weight.reshape(channels, -1) @ places).view(channels, height * width, -1)
        pixels = input.permute(1, 0, 2, 3).reshape(channels, batch, height * width)
        size = -(-height // stride), -(-width // stride)
        return _Products.apply(pixels, matrix).permute(1, 2, 0).reshape(batch, *size, channels).permute(0, 3, 1, 2)


def _fits(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and 1 < module.groups == module.in_channels == module.out_channels
        and module.kernel_size[0] == module.kernel_size[1]
        and module.kernel_size[0] % 2 == 1
        and module.stride[0] == module.stride[1]
        and module.padding == (module.kernel_size[0] // 2,) * 2
        and module.dilation == (1, 1)
        and module.bias is None
        and module.padding_mode == "zeros"
    )


@contextmanager
def tiny_maps(model: nn.Module) -> Iterator[None]:
    """Inside, the depthwise convolutions of `model` take the short way on tiny maps; afterwards they are what they were."""
    changed = [module for module in model.modules() if _fits(module)]
    for module in changed:
        module.__class__ = TinyMapConv2d
    try:
        yield
    finally:
        for module in changed:
            module.__class__ = nn.Conv2d

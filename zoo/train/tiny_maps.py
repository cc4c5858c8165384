"""Depthwise convolutions of tiny maps as matrix products, while a network trains on a CPU.

A picture of 32 pixels is 4, 2 and 1 pixels wide in the later stages of an EfficientNet, and there the backward pass of a depthwise
convolution takes torch's CPU kernels ten times as long as the arithmetic is worth: two thirds of a whole training step of B0. On such a map
the convolution of a channel is a matrix, [B, H W] @ [H W, H' W'], of the kernel's weights and zeros. Same result up to rounding.
"""

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_PIXELS = 16  # of a map; above, torch's own kernels are as fast
_SQUARE = 1  # with a plain square kernel in channels_last, where its kernels are fast down to two by two


@functools.cache
def _places(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> torch.Tensor:
    """[k * k', H * W * H' * W']: 1 where that weight of the kernel takes that pixel to that one of the result; padded to keep the size."""
    (height, width), reach = size, (kernel[0] // 2, kernel[1] // 2)
    rows, columns = range(0, height, stride[0]), range(0, width, stride[1])
    places = torch.zeros(*kernel, height, width, len(rows), len(columns))
    for (to_row, row), (to_column, column) in itertools.product(enumerate(rows), enumerate(columns)):
        for weight_row, weight_column in itertools.product(range(kernel[0]), range(kernel[1])):
            i = row + (weight_row - reach[0]) * dilation[0]
            j = column + (weight_column - reach[1]) * dilation[1]
            if 0 <= i < height and 0 <= j < width:
                places[weight_row, weight_column, i, j, to_row, to_column] = 1
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
        square = self.kernel_size[0] == self.kernel_size[1] and self.dilation == (1, 1)
        most = _SQUARE if square and input.is_contiguous(memory_format=torch.channels_last) else _PIXELS
        if height * width > most or input.dtype != torch.float32 or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        kernel, stride = self.kernel_size, self.stride
        if height == width == 1:
            product = input * self.weight[:, 0, kernel[0] // 2, kernel[1] // 2].view(1, -1, 1, 1)
        else:
            places = _places((height, width), kernel, stride, self.dilation)
            matrix = (self.weight.reshape(channels, -1) @ places).view(channels, height * width, -1)
            pixels = input.permute(1, 0, 2, 3).reshape(channels, batch, height * width)
            size = -(-height // stride[0]), -(-width // stride[1])
            product = _Products.apply(pixels, matrix).permute(1, 2, 0).reshape(batch, *size, channels).permute(0, 3, 1, 2)
        return product if self.bias is None else product + self.bias.view(1, -1, 1, 1)


def _fits(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and 1 < module.groups == module.in_channels == module.out_channels
        and all(size % 2 == 1 for size in module.kernel_size)
        and module.padding == tuple(step * (size // 2) for step, size in zip(module.dilation, module.kernel_size, strict=True))
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

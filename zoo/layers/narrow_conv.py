"""A convolution to one channel, in forms that a CPU computes faster.

torch has no kernel for so few channels: two to one, 7 x 7, runs at a small part of the machine's speed. The same sums are

    small maps:  of a few samples, a product of the kernel and the patches, [C_in * k * k] @ [B, C_in * k * k, H * W]; of more,
                 [B, C_in * H * W] @ [C_in * H * W, H * W], the matrix made of the kernel's weights and zeros
    large maps:  a convolution over blocks of 4 x 4 pixels, 16 * C_in channels to 16, again of the kernel's weights and zeros;
                 of several samples and without gradients, a depthwise convolution of which each sample's channels are channels

the first three of three times the multiplications or more, and still faster, most of all backward.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from .gating import direct

BLOCK = 4


def _gather(reach: torch.Tensor, kernel_size: int, channels: int) -> torch.Tensor:
    """Positions in the flattened kernel (C_in * k * k is the appended zero) for offsets [..., 2] of input from output pixel; C_in last."""
    inside = (reach.abs() <= kernel_size // 2).all(-1)
    place = (reach + kernel_size // 2) @ torch.tensor([kernel_size, 1])
    stack = place[..., None] + torch.arange(channels) * kernel_size**2
    return torch.where(inside[..., None], stack, channels * kernel_size**2).int()  # half the size: it is kept for the backward pass


def _pixels(height: int, width: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(height), torch.arange(width))


@functools.lru_cache(maxsize=64)
def _matrix_index(height: int, width: int, kernel_size: int, channels: int) -> torch.Tensor:
    """[C_in * H * W * H * W]: input channel, input pixel, output pixel."""
    with torch.inference_mode(False), torch.device("cpu"):
        pixels = _pixels(height, width)
        return _gather(pixels[:, None] - pixels[None], kernel_size, channels).permute(2, 0, 1).flatten()


@functools.lru_cache(maxsize=64)
def _block_index(kernel_size: int, channels: int) -> tuple[torch.Tensor, int]:
    """[16 * C_in * 16 * n * n]: pixel of the output block; input channel, pixel of the input block; block offset; and n // 2."""
    with torch.inference_mode(False), torch.device("cpu"):
        away = -(-(kernel_size // 2) // BLOCK)
        blocks, pixels = (_pixels(2 * away + 1, 2 * away + 1) - away) * BLOCK, _pixels(BLOCK, BLOCK)
        reach = blocks[None, None, :] + pixels[None, :, None] - pixels[:, None, None]  # out, in, block
        return _gather(reach, kernel_size, channels).permute(0, 3, 1, 2).flatten(), away


def in_blocks(weight: torch.Tensor) -> torch.Tensor:
    """[1, C_in, k, k] -> [16, 16 * C_in, n, n]: the same convolution of maps whose 4 x 4 blocks are channels, padded by n // 2."""
    index, away = _block_index(weight.shape[-1], weight.shape[1])
    kernel = F.pad(weight.flatten(), (0, 1)).index_select(0, index)
    return kernel.view(BLOCK**2, weight.shape[1] * BLOCK**2, 2 * away + 1, 2 * away + 1)


@torch.jit.unused
def _convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = x.shape
    size = weight.shape[-1]
    pixels = height * width
    if 64 < pixels <= 256 and batch < 4:
        return (weight.flatten(1) @ F.unfold(x, size, padding=size // 2)).view(batch, 1, height, width)
    if pixels <= 256:
        padded = F.pad(weight.flatten(), (0, 1))
        matrix = padded.index_select(0, _matrix_index(height, width, size, channels)).view(-1, pixels)
        return (x.flatten(1) @ matrix).view(batch, 1, height, width)
    if batch * channels >= 8 and not torch.is_grad_enabled():
        kernels = weight.view(channels, 1, size, size).repeat(batch, 1, 1, 1)
        each = F.conv2d(x.reshape(1, batch * channels, height, width), kernels, padding=size // 2, groups=batch * channels)
        return each.reshape(x.shape).sum(1, keepdim=True)
    if pixels <= 400 or size < 5:
        return F.conv2d(x, weight, padding=size // 2)
    kernel = in_blocks(weight)
    right, below = -width % BLOCK, -height % BLOCK
    if right or below:
        x = F.pad(x, (0, right, 0, below))
    y = F.pixel_shuffle(F.conv2d(F.pixel_unshuffle(x, BLOCK), kernel, padding=kernel.shape[-1] // 2), BLOCK)
    return y[:, :, :height, :width]


@torch.fx.wrap  # the branches on the shape are opaque to a tracer
def _narrow_conv(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if not torch.jit.is_scripting():
        if direct(x):
            return _convolve(x, weight)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class NarrowConv2d(nn.Conv2d):
    """`nn.Conv2d(channels, 1, kernel_size, padding=kernel_size // 2, bias=False)`, key for key: [B, C, H, W] -> [B, 1, H, W]."""

    def __init__(self, channels: int, kernel_size: int, *, device=None, dtype=None):
        super().__init__(channels, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _narrow_conv(x, self.weight)

"""Frequency Channel Attention: squeeze-and-excitation whose groups of channels are each summed up by another cosine wave.

    f_c = sum_hw pool(x_c) cos(pi u (h + 1/2) / g) cos(pi v (w + 1/2) / g)       s = sigmoid(W2 act(W1 f))       y = x * s

The mean is the lowest frequency of the discrete cosine transform; here (u, v) runs over the 16 that alone did best in the authors' trials
on a 7 x 7 grid. On a g x g grid they are g / 7 times higher, so that the same wave lies over the picture.

Qin et al., FcaNet: Frequency Channel Attention Networks, ICCV 2021, arXiv 2012.11879.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerType, create_act_layer
from torch import nn

from registry import ATTENTION

from ..layers import rd_channels
from ..layers.narrow import narrow_in, narrow_out
from ..layers.precision import at_least_float32

# best first, in units of the 7 x 7 grid: waves down the rows, and along the columns
_U = (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2, 4, 6, 3, 5, 5, 2, 6, 5, 5, 3, 3, 4, 2, 2, 6, 1)
_V = (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2, 6, 3, 3, 3, 5, 1, 1, 2, 4, 2, 1, 1, 3, 0, 5, 3)
_GRID = {64: 56, 128: 28, 256: 14, 512: 7}  # a ResNet's widths and the maps they have at 224 pixels


def _wave(frequency: int, grid: int) -> torch.Tensor:
    """One row of the orthonormal DCT-II, [grid], in float64."""
    scale = math.sqrt((2 if frequency else 1) / grid)
    return scale * torch.cos(math.pi * frequency / grid * (torch.arange(grid, dtype=torch.float64, device="cpu") + 0.5))


@ATTENTION.register("fca")
class FCA(nn.Module):
    """Channel gate from 16 frequencies instead of the mean alone; use it where `se` works and its parameters are affordable.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of the bottleneck over C, rounded down; the paper's r = 16 by default.
        act_layer: between the two layers; the paper's ReLU by default.
        frequencies: the paper's 16, at most 32; at other widths the largest divisor of C that is not above it.
        grid: side that maps are average-pooled to, 7 or more; None takes the paper's for its widths 64, 128, 256, 512, else 7.
        calm: start with W2 = 0, so that the gate is constant (one half) until training moves it.

    Raises:
        ValueError: frequencies outside 1 to 32, or a grid below 7.
    """

    attends = "channel"
    waves: torch.Tensor

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 16,
        act_layer: LayerType = "relu",
        frequencies: int = 16,
        grid: int | None = None,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if not 1 <= frequencies <= len(_U):
            raise ValueError(f"fca frequencies: expected 1 to {len(_U)}, got {frequencies}")
        if grid is not None and grid < 7:
            raise ValueError(f"fca grid: expected 7 or more, the side that the frequencies were chosen on, got {grid}")
        self.grid = grid or _GRID.get(channels, 7)
        self.frequencies = max(n for n in range(1, frequencies + 1) if channels % n == 0)
        self.channel_parts = self.frequencies
        hidden = rd_channels(channels, rd_ratio)
        # convolutions, because timm's initialisation takes every linear layer to have a bias
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False, device=device, dtype=dtype)
        self.act = create_act_layer(act_layer)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False, device=device, dtype=dtype)
        waves = torch.empty(self.frequencies, 1, self.grid, self.grid, device=device, dtype=dtype)
        self.register_buffer("waves", waves, persistent=False)  # constants, known from the arguments
        self.calm = calm
        self.init_weights()

    def init_non_persistent_buffers(self) -> None:
        """timm's name for it; transformers calls it too, whose models begin without memory."""
        scale = self.grid // 7
        pairs = list(zip(_U, _V, strict=True))[: self.frequencies]
        waves = torch.stack([torch.outer(_wave(u * scale, self.grid), _wave(v * scale, self.grid)) for u, v in pairs])
        self.waves.copy_(waves[:, None])

    def init_weights(self) -> None:
        self.init_non_persistent_buffers()
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()
        if self.calm:
            nn.init.zeros_(self.fc2.weight)

    def narrow(self, keep: Sequence[int]) -> None:
        narrow_in(self.fc1, keep)
        narrow_out(self.fc2, keep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.adaptive_avg_pool2d(x, (self.grid, self.grid)).unflatten(1, (self.frequencies, -1))
        f = (at_least_float32(pooled) * self.waves).sum((3, 4), keepdim=True).flatten(1, 2).to(x.dtype)  # [B, C, 1, 1]
        return x * torch.sigmoid(self.fc2(self.act(self.fc1(f))))

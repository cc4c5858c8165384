"""Mixed Local Channel Attention: ECA on the mean of the picture and on the means of a 5 x 5 grid of its parts, mixed.

    l = pool_5x5(x)                                                  s_l = sigmoid(conv1d_k(l)),  s_g = sigmoid(conv1d_k(mean(l)))
    y = x * pool_HxW(1/2 s_l + 1/2 s_g)

Two convolutions of k weights each, run over the channels; the local one runs over all 25 vectors laid end to end, so that at a seam the
last channels of one part meet the first of the next. Between the grid and the map adaptive average pooling goes both ways.

Wan et al., Mixed local channel attention for object detection, Engineering Applications of Artificial Intelligence 123, 2023, 106442.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION


@ATTENTION.register("mlca")
class MLCA(nn.Module):
    """Channel gate that differs between the parts of the picture; use it where ECA is, and position matters too.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        local_size: parts along each side of the picture, the paper's 5 by default.
        local_weight: share of the local gate, from 0 to 1; the paper's half by default.
        kernel_size: odd; None takes ECA's, |log2(C) / gamma + beta / gamma| made odd.
        gamma, beta: of that rule.
        calm: start with both convolutions at zero, so that the gate is constant (one half) until training moves it.

    Raises:
        ValueError: an even kernel, a share outside 0 to 1, no parts.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        local_size: int = 5,
        local_weight: float = 0.5,
        kernel_size: int | None = None,
        gamma: float = 2.0,
        beta: float = 1.0,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if kernel_size is None:
            nearest = int(abs((math.log2(channels) + beta) / gamma))
            kernel_size = nearest if nearest % 2 else nearest + 1
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"mlca kernel_size: expected an odd number such as 3 or 5, got {kernel_size}")
        if not 0 <= local_weight <= 1:
            raise ValueError(f"mlca local_weight: expected a share from 0 to 1, got {local_weight}")
        if local_size < 1:
            raise ValueError(f"mlca local_size: expected a positive number such as 5, got {local_size}")
        self.local_size = local_size
        self.local_weight = local_weight
        self.conv_global = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)
        self.conv_local = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)
        self.calm = calm
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.conv_global, self.conv_local):
            layer.reset_parameters()
            if self.calm:
                nn.init.zeros_(layer.weight)

    def narrow(self, keep: Sequence[int]) -> None:
        """Nothing to do: the kernels stay as they are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, share = self.local_size, self.local_weight
        parts = F.adaptive_avg_pool2d(x, (size, size)).flatten(2).transpose(1, 2)  # [B, 25, C]
        whole = torch.sigmoid(self.conv_global(parts.mean(1, keepdim=True)))  # [B, 1, C]
        local = torch.sigmoid(self.conv_local(parts.flatten(1).unsqueeze(1))).reshape_as(parts)
        gate = (share * local + (1 - share) * whole).transpose(1, 2).unflatten(2, (size, size))
        return x * F.adaptive_avg_pool2d(gate, (x.shape[2], x.shape[3]))

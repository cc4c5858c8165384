"""Gated Channel Transformation: channels compete or cooperate by their energy, with three numbers a channel and no layer.

    e_c = alpha_c sqrt(sum_hw(x_c^2) + eps)                      embedding
    n_c = gamma_c e_c / sqrt(mean_c(e^2) + eps)                  normalization over the channels
    y_c = x_c (1 + tanh(n_c + beta_c))                           gating

It starts as the identity (gamma = beta = 0), so it can be put into any network without disturbing it.
Yang et al., Gated Channel Transformation for Visual Recognition, CVPR 2020, arXiv 1909.11519.
"""

from collections.abc import Sequence

import torch
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers.narrow import narrow_parameter


@ATTENTION.register("gct")
class GCT(nn.Module):
    """Channel gate with 3 C parameters that starts as the identity; use it on a trained network, or wherever SE's layers are too many.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio, act_layer: accepted for the contract; this gate has neither bottleneck nor activation.
        eps: added to both sums of squares.
        calm: changes nothing: the paper's own start is constant (one).
    """

    attends = "channel"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1.0,
        act_layer: LayerType = "relu",
        eps: float = 1e-5,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1, channels, 1, 1, device=device, dtype=dtype))
        self.gamma = nn.Parameter(torch.empty(1, channels, 1, 1, device=device, dtype=dtype))
        self.beta = nn.Parameter(torch.empty(1, channels, 1, 1, device=device, dtype=dtype))
        self.eps = eps
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.ones_(self.alpha)
        nn.init.zeros_(self.gamma)
        nn.init.zeros_(self.beta)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {"alpha", "gamma", "beta"}

    def narrow(self, keep: Sequence[int]) -> None:
        for name in ("alpha", "gamma", "beta"):
            narrow_parameter(self, name, keep, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)  # sums of squares leave half precision
        norm = torch.linalg.vector_norm(x, 2, (2, 3), keepdim=True, dtype=wide)  # one pass, no map of squares
        embedding = self.alpha * (norm.square() + self.eps).sqrt()
        normed = self.gamma * embedding / (embedding.square().mean(1, keepdim=True) + self.eps).sqrt()
        return x * (1 + torch.tanh(normed + self.beta)).to(x.dtype)

"""Non-local block: every pixel adds a mean over all pixels, weighted by how alike they are (self-attention with one head).

    a_ij = softmax_j(theta(x_i) . phi(x_j))              y_i = x_i + BN(W_z sum_j a_ij g(x_j))

The embedded Gaussian version; theta, phi and g are 1x1 convolutions to half the channels, and the norm starts at weight zero: y = x. A bias
in phi moves all of a pixel's similarities alike, and the norm takes one in g or W_z out again: only theta has one.
The H W x H W weights are never stored: `scaled_dot_product_attention` works through them in blocks. Their time remains.

Wang et al., Non-local Neural Networks, arXiv 1711.07971, equations 1, 3 and 6.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerType
from torch import nn

from registry import ATTENTION

from ..layers import BatchNorm, rd_channels
from ..layers.narrow import narrow_each, narrow_in, narrow_out


@ATTENTION.register("nl")
class NonLocal(nn.Module):
    """Self-attention between pixels; use it in late stages, where far parts of the picture must be compared.

    Args:
        channels: C of the [B, C, H, W] that comes in and goes out.
        rd_ratio: width of theta, phi and g over C, rounded down; the paper's half by default.
        act_layer: accepted for the contract; there is no activation.
        scale: of theta . phi; the paper's equation has none (1). Transformers' is the width to the power of -0.5.
        calm: accepted for the contract; the paper's own start is y = x.

    Raises:
        ValueError: a scale that is not positive.
    """

    attends = "both"

    def __init__(
        self,
        channels: int,
        *,
        rd_ratio: float = 1 / 2,
        act_layer: LayerType = "relu",
        scale: float = 1.0,
        calm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"nl scale: expected a positive number such as 1, got {scale}")
        inner = rd_channels(channels, rd_ratio)
        self.rd_ratio = rd_ratio
        self.scale = float(scale)
        self.theta = nn.Conv2d(channels, inner, 1, device=device, dtype=dtype)
        self.phi = nn.Conv2d(channels, inner, 1, bias=False, device=device, dtype=dtype)
        self.g = nn.Conv2d(channels, inner, 1, bias=False, device=device, dtype=dtype)
        self.z = nn.Conv2d(inner, channels, 1, bias=False, device=device, dtype=dtype)
        self.bn = BatchNorm(channels, device=device, dtype=dtype)
        self.init_weights()

    def init_weights(self) -> None:
        for layer in (self.theta, self.phi, self.g, self.z):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(self.theta.bias)  # type: ignore[arg-type]  # it is built with one
        self.bn.reset_parameters()
        nn.init.zeros_(self.bn.weight)

    @torch.no_grad()
    def narrow(self, keep: Sequence[int]) -> None:
        """The width inside shrinks too, because nearly all of the work is in it: theta and phi, and g and z, keep their strongest pairs."""
        for layer in (self.theta, self.phi, self.g):
            narrow_in(layer, keep)
        narrow_out(self.z, keep)
        narrow_each(self.bn, keep)
        inner = min(rd_channels(len(keep), self.rd_ratio), self.z.in_channels)
        for one, other, narrow_other in ((self.theta, self.phi, narrow_out), (self.g, self.z, narrow_in)):
            read = other.weight if other is self.phi else other.weight.transpose(0, 1)
            strength = one.weight.flatten(1).norm(dim=1) * read.flatten(1).norm(dim=1)
            strongest = list(range(inner)) if strength.is_meta else strength.topk(inner).indices.sort().values.tolist()
            narrow_out(one, strongest)
            narrow_other(other, strongest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, _, h, w = x.shape
        theta = self.theta(x).flatten(2).transpose(1, 2).unsqueeze(1)  # [B, 1, pixels, inner]
        phi = self.phi(x).flatten(2).transpose(1, 2).unsqueeze(1)
        g = self.g(x).flatten(2).transpose(1, 2).unsqueeze(1)
        y = F.scaled_dot_product_attention(theta, phi, g, scale=self.scale)
        y = y.squeeze(1).transpose(1, 2).unflatten(2, (h, w))
        return x + self.bn(self.z(y))

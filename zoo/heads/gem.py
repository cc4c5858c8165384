"""Generalised mean pooling, then a linear map: between the mean of a channel (p = 1) and its maximum (p -> inf), and p is learned.

    f_c = (mean_i max(x_ic, 0)^p)^(1/p);   embedding = W f

Retrieval's pooling: what is searched for fills a small part of a picture, and a plain mean drowns it. The paper's features come from a
ReLU; a SiLU goes down to -0.28, where a broken power has no value, so that negatives count as zero. The mean is taken of logarithms in
float32: no power of a small number vanishes and none of a large one overflows, whatever p has become.

Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", arXiv 1711.02512, equation 3.
"""

import math

import torch
from torch import Tensor, nn

from registry import HEADS

from ..layers.precision import at_least_float32
from .pixels import pixels

_ZERO = (
    1e-30  # stands for 0, which has no logarithm; below all that counts: a network may compute 1e-7 before it has learned its statistics
)


@HEADS.register("gem")
class GeM(nn.Module):
    """A map `[B, in_features, H, W]` of any size, or tokens `[B, N, in_features]` -> `[B, embed_dim]`.

    Args:
        p: where the power starts; one for all channels.

    Raises:
        ValueError: p is not positive; what comes is neither a map nor tokens of that width.
    """

    reads = "map"

    def __init__(self, in_features: int, embed_dim: int, *, p: float = 3.0):
        super().__init__()
        if p <= 0:
            raise ValueError(f"gem p: expected a positive number such as 3 (1 is the mean), got {p}")
        self.in_features = in_features
        self.p = nn.Parameter(torch.tensor([float(p)]))
        self.proj = nn.Linear(in_features, embed_dim, bias=False)
        nn.init.normal_(self.proj.weight, std=in_features**-0.5)
        with torch.no_grad():  # f is all positive: what its channels have in common would be most of every embedding
            self.proj.weight -= self.proj.weight.mean(1, keepdim=True)

    def no_weight_decay(self) -> set[str]:
        """Decay would pull p towards 0, which is neither mean nor maximum."""
        return {"p"}

    def pool(self, x: Tensor) -> Tensor:
        """The `[B, in_features]` that the linear map reads."""
        x = pixels(x, self.in_features, "gem")
        logs, p = at_least_float32(x).clamp(min=_ZERO).log(), at_least_float32(self.p)
        return (((p * logs).logsumexp(1) - math.log(x.shape[1])) / p).exp().to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.pool(x))

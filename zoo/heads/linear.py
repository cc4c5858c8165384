"""One linear map into the joint space, without a bias: CLIP's projection.

    embedding = W x

It starts at the scale that keeps the length of a feature (std 1/sqrt(in_features), CLIP's own).

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020.
"""

from torch import Tensor, nn

from registry import HEADS


@HEADS.register("linear")
class Linear(nn.Module):
    """`[B, in_features]` -> `[B, embed_dim]`."""

    def __init__(self, in_features: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Linear(in_features, embed_dim, bias=False)
        nn.init.normal_(self.proj.weight, std=in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)

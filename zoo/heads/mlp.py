"""Two linear maps with a GELU between, twice as wide in the middle: for features that no single linear map brings together.

    embedding = W2 gelu(W1 x)

The shape of open_clip's `timm_proj="mlp"`, without biases: under a normalisation a constant that every embedding shares says nothing.
SimCLR (Chen et al., arXiv 2002.05709) shows what a non-linear head is good for: the features below it stay general.
"""

from timm.layers import Mlp
from torch import Tensor, nn

from registry import HEADS


@HEADS.register("mlp")
class MLP(nn.Module):
    """`[B, in_features]` -> `[B, embed_dim]`.

    Args:
        dropout: of the hidden layer.
    """

    def __init__(self, in_features: int, embed_dim: int, *, dropout: float = 0.0):
        super().__init__()
        self.mlp = Mlp(in_features, 2 * embed_dim, embed_dim, bias=False, drop=(dropout, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)

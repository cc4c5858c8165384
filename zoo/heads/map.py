"""Multi-head attention pooling, SigLIP's: one learned latent asks all pixels or tokens, and a residual MLP follows.

    a = softmax(l k(x)^T / sqrt(d));   z = W sum_i a_i v(x_i);   embedding = z + W2 gelu(W1 LN(z))       many heads of a

W is the linear map to the joint space. It comes before the norm and the MLP, which the paper has at the width of the tower: for 1280
features and an embedding of 256 that is 4 million parameters, not 18, beside the 4 million of a B0. The latent needs no projection of its
own, as any could be learned into it. It knows no positions: what the tower tells of them must do.

The parameters are timm's, the computation is that of one query (one_query.py).

It starts as the mean, nearly: the latent is short, and the biases are zero, where a constant would be all that is seen of a tower that has
not learned its scale.

Zhai et al., "Scaling Vision Transformers", arXiv 2106.04560; Set Transformer, Lee et al., arXiv 1810.00825; SigLIP, arXiv 2303.15343.
"""

from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from registry import HEADS

from .num_heads import num_heads as divisor
from .one_query import attend
from .pixels import pixels


@HEADS.register("map")
class MAP(nn.Module):
    """A map `[B, in_features, H, W]` of any size, or tokens `[B, N, in_features]` -> `[B, embed_dim]`.

    Args:
        num_heads: of the attention; by default about one for 64 channels, a number that divides them.
        mlp_ratio: width of the MLP's middle over embed_dim.

    Raises:
        ValueError: num_heads does not divide in_features, or what comes is neither a map nor tokens of that width.
    """

    reads = "map"

    def __init__(self, in_features: int, embed_dim: int, *, num_heads: int | None = None, mlp_ratio: float = 4.0):
        super().__init__()
        self.in_features = in_features
        self.pool = AttentionPoolLatent(
            in_features,
            embed_dim,
            num_heads=divisor(in_features, num_heads),
            mlp_ratio=mlp_ratio,
            q_proj=False,
            norm_layer=nn.LayerNorm,
        )
        for name, parameter in self.pool.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def no_weight_decay(self) -> set[str]:
        return {"pool.latent"}

    def forward(self, x: Tensor) -> Tensor:
        pool = self.pool
        (w_k, w_v), (_, b_v) = pool.kv.weight.chunk(2), pool.kv.bias.chunk(2)
        x = pool.proj(attend(pixels(x, self.in_features, "map"), pool.latent[0], w_k, w_v, b_v, pool.num_heads))
        return x + pool.mlp(pool.norm(x))

"""Attention pooling of a feature map, CLIP's for ResNets: the mean of the map asks, the pixels and the mean answer.

    z = [mean(x), x_1 ... x_N] + pos;   a = softmax(q(z_0) k(z)^T / sqrt(d));   embedding = W sum_i a_i v(z_i)       many heads of a

Of timm's two this is the one with learned positions, as in CLIP: they are resampled to the size of the map. The other, with rotary
positions, wants channels in fours, and timm's author found it to fall off at sizes that it was not trained at.

The parameters are timm's, the computation is that of one query (one_query.py).

It starts as the mean through two linear maps: the positions and the biases are zero, where a constant would be all that is seen of a tower
that has not learned its scale; the matrices keep the length of a feature (std 1/sqrt(in_features), CLIP's own).

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020, section 2.4.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionPool2d, resample_abs_pos_embed
from torch import Tensor, nn

from registry import HEADS

from .num_heads import num_heads as divisor
from .one_query import attend


@HEADS.register("attnpool")
class AttnPool(nn.Module):
    """A map `[B, in_features, H, W]` of any size -> `[B, embed_dim]`.

    Args:
        num_heads: of the attention; by default about one for 64 channels, a number that divides them.
        feat_size: side of the map whose positions are learned; those of a map of another size are resampled from them.

    Raises:
        ValueError: num_heads does not divide in_features, feat_size is below 1, or what comes is no map of that width.
    """

    reads = "map"

    def __init__(self, in_features: int, embed_dim: int, *, num_heads: int | None = None, feat_size: int = 7):
        super().__init__()
        if feat_size < 1:
            raise ValueError(f"attnpool feat_size: expected at least 1, such as 7 for pictures of 224 pixels, got {feat_size}")
        self.in_features = in_features
        self.pool = AttentionPool2d(in_features, feat_size, out_features=0, num_heads=divisor(in_features, num_heads))
        nn.init.zeros_(self.pool.pos_embed)
        self.proj = nn.Linear(in_features, embed_dim, bias=False)
        nn.init.normal_(self.proj.weight, std=in_features**-0.5)

    def no_weight_decay(self) -> set[str]:
        return {"pool.pos_embed"}

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_features:
            raise ValueError(
                f"head attnpool: expected a feature map [B, {self.in_features}, H, W], got {list(x.shape)}"
                + ("; tokens have no rows and columns to learn positions of: the head map reads them" if x.dim() == 3 else "")
                + ("; linear reads vectors" if x.dim() == 2 else "")
            )
        size = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        pos = resample_abs_pos_embed(self.pool.pos_embed.unsqueeze(0), size, old_size=self.pool.feat_size, num_prefix_tokens=1)
        z = torch.cat([x.mean(1, keepdim=True), x], 1) + pos
        qkv: Any = self.pool.qkv  # not None: they are not separate
        (w_q, w_k, w_v), (b_q, _, b_v) = qkv.weight.chunk(3), qkv.bias.chunk(3)
        return self.proj(attend(z, F.linear(z[:, 0], w_q, b_q), w_k, w_v, b_v, self.pool.num_heads))

"""A small text transformer: pre-norm blocks, learned positions, the mean over the tokens.

    x_0 = token + position;   x' = x + attention(norm(x));   x'' = x' + mlp(norm(x'));   feature = norm(mean over tokens of x_depth)

Attention sees the whole text, as in BERT: a tower only encodes. Pooling by the mean needs no special token to carry the sentence, which a
small network on few captions would have to learn first. With an 8k vocabulary the default has about five million parameters, as B0 has.

Vaswani et al., "Attention Is All You Need", arXiv 1706.03762; pre-norm: Xiong et al., arXiv 2002.04745.
"""

from typing import Any

import torch
from timm.layers import Attention, Mlp
from torch import Tensor, nn

from registry import TOWERS

from .tokenizer import Tokenizer


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, qkv_bias=True, attn_drop=dropout, proj_drop=dropout)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width, drop=dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), attn_mask=mask)
        return x + self.mlp(self.norm2(x))


@TOWERS.register("transformer")
class Transformer(nn.Module):
    """Token ids `[B, L]`, any L up to `max_length` and 0 where there is no token -> features `[B, width]`.

    Args:
        tokenizer: makes ids of texts, and gives the size of the vocabulary.
        width: of a token, and of the feature.
        depth: blocks.
        heads: of attention, in each block.
        max_length: tokens of a text that are read; the rest is cut off.
        dropout: of the embeddings, the attention and the layers.

    Raises:
        ValueError: `width` is not a multiple of `heads`, or ids are longer than `max_length`.
    """

    reads = "text"

    def __init__(
        self, *, tokenizer: Tokenizer, width: int = 256, depth: int = 4, heads: int = 4, max_length: int = 64, dropout: float = 0.0
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} is not a multiple of heads={heads}")
        self.tokenizer = tokenizer
        self.config: dict[str, Any] = dict(width=width, depth=depth, heads=heads, max_length=max_length, dropout=dropout)
        self.num_features = width
        self.max_length = max_length
        self.tokens = nn.Embedding(tokenizer.vocab_size, width)
        self.positions = nn.Parameter(torch.empty(1, max_length, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.init_weights()

    def init_weights(self) -> None:
        """Tokens with std 1 and positions with 0.1, the layers with 0.02, and less for what is added to the residual stream.

        A word must outweigh what random blocks make of it: with tokens at 0.02, as language models start, all texts begin nearly alike, and
        a run of a few hundred steps finds half as much.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                residual = name.endswith(("attention.proj.weight", "mlp.fc2.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * len(self.blocks)) ** 0.5 if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.tokens.weight, std=1.0)
        nn.init.normal_(self.positions, std=0.1)

    def no_weight_decay(self) -> set[str]:
        return {"tokens.weight", "positions"}

    def prepare(self, texts: list[str]) -> Tensor:
        """Texts to token ids `[B, L]`."""
        return self.tokenizer(texts, self.max_length)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens: this tower reads at most max_length={self.max_length}")
        valid = ids != 0
        x = self.dropout(self.tokens(ids) + self.positions[:, :length])
        # added to the logits: exp(-1e4) is 0 in every precision, and unlike -inf it leaves a row of padding alone finite
        mask = valid.logical_not()[:, None, None, :].to(x.dtype) * -1e4
        for block in self.blocks:
            x = block(x, mask)
        weight = valid.unsqueeze(-1).to(x.dtype)
        return self.norm((x * weight).sum(1) / weight.sum(1).clamp(min=1))

"""A bag of tokens: the mean of the token embeddings, and one residual layer on top. The order of the words plays no part.

    m = norm(mean over tokens of embedding);   feature = m + mlp(m)

The baseline that a text tower has to beat. On short captions (names, labels, keywords) it often comes close, at a small part of the cost.

Joulin et al., "Bag of Tricks for Efficient Text Classification" (fastText), arXiv 1607.01759.
"""

from typing import Any

from timm.layers import Mlp
from torch import Tensor, nn

from registry import TOWERS

from .tokenizer import Tokenizer


@TOWERS.register("bag")
class Bag(nn.Module):
    """Token ids `[B, L]`, 0 where there is no token -> features `[B, width]`.

    Args:
        tokenizer: makes ids of texts, and gives the size of the vocabulary.
        width: of a token, and of the feature.
        max_length: tokens of a text that `prepare` reads; the rest is cut off.
        dropout: of the mean and of the layer.
    """

    reads = "text"

    def __init__(self, *, tokenizer: Tokenizer, width: int = 256, max_length: int = 64, dropout: float = 0.0):
        super().__init__()
        self.tokenizer = tokenizer
        self.config: dict[str, Any] = dict(width=width, max_length=max_length, dropout=dropout)
        self.num_features = width
        self.max_length = max_length
        self.tokens = nn.Embedding(tokenizer.vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.mlp = Mlp(width, 2 * width, width, drop=dropout)
        nn.init.normal_(self.tokens.weight, std=0.02)  # torch's std of 1 is 50 times what a step of AdamW moves: it would hardly learn

    def no_weight_decay(self) -> set[str]:
        return {"tokens.weight"}

    def prepare(self, texts: list[str]) -> Tensor:
        """Texts to token ids `[B, L]`."""
        return self.tokenizer(texts, self.max_length)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        weight = (ids != 0).unsqueeze(-1).to(x.dtype)
        x = self.dropout(self.norm((x * weight).sum(1) / weight.sum(1).clamp(min=1)))
        return x + self.mlp(x)

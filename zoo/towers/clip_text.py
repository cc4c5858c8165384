"""CLIP's text tower: pre-norm blocks, learned positions, each token sees those before it; the end token carries the text.

    x_0 = token + position;   x' = x + attention(norm(x));   x'' = x' + mlp(norm(x'));   feature = norm(x_depth[end])

It is here because it is open_clip's own text tower, number for number, so that `zoo export --to open_clip` gives the same embeddings; our
`transformer`, which sees the whole text and pools by the mean, cannot be said in open_clip's terms.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020.
"""

from typing import Any

import torch
from torch import Tensor, nn

from registry import TOWERS

from .tokenizer import Tokenizer
from .transformer import Block


@TOWERS.register("clip_text")
class ClipText(nn.Module):
    """Token ids `[B, L]`, any L up to `max_length`, the end token last and whatever behind it -> features `[B, width]`.

    Args:
        tokenizer: makes ids of texts, and gives the size of the vocabulary and the end token.
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
        self.positions = nn.Parameter(torch.empty(max_length, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.init_weights()

    def init_weights(self) -> None:
        """Layers as CLIP starts them, tokens with std 1 and positions with 0.1 as in `transformer`, and the end token near zero.

        The feature is read at the end token, which all texts have: what attention brings there must outweigh it. With an end token like the
        others, or layers that start at 0.02, the features of five different words have a cosine of 0.9; so they have 0.45.
        """
        width, depth = self.num_features, len(self.blocks)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                residual = name.endswith(("attention.proj.weight", "mlp.fc2.weight"))
                std = (2 * width) ** -0.5 if name.endswith("mlp.fc1.weight") else width**-0.5
                nn.init.normal_(parameter, std=std * (2 * depth) ** -0.5 if residual else std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.tokens.weight, std=1.0)
        nn.init.normal_(self.positions, std=0.1)
        with torch.no_grad():
            self.tokens.weight[self.tokenizer.end] *= 0.02

    def no_weight_decay(self) -> set[str]:
        return {"tokens.weight", "positions"}

    def prepare(self, texts: list[str]) -> Tensor:
        """Texts to token ids `[B, L]`."""
        return self.tokenizer(texts, self.max_length)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens: this tower reads at most max_length={self.max_length}")
        x = self.dropout(self.tokens(ids) + self.positions[:length])
        before = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        for block in self.blocks:
            x = block(x, before)
        end = (ids == self.tokenizer.end).int().argmax(1)  # padding comes behind it, where it is not seen
        return self.norm(x[torch.arange(ids.shape[0], device=ids.device), end])

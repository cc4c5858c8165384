"""Losses of two sides' embeddings, pure functions of tensors. A file a loss, named as registered."""

from .clip import clip as clip
from .siglip import siglip as siglip

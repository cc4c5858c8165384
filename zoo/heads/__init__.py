"""Features to joint space: `[B, in_features]` to `[B, embed_dim]`, not normalised. A file a head, named as registered."""

from .linear import Linear as Linear
from .mlp import MLP as MLP

"""No head: embedding = x. For a tower that ends in the joint space already, or to see what a head is worth."""

from torch import nn

from registry import HEADS


@HEADS.register("none")
class NoHead(nn.Identity):
    """`[B, in_features]` -> the same tensor.

    Raises:
        ValueError: embed_dim is not in_features.
    """

    def __init__(self, in_features: int, embed_dim: int):
        super().__init__()
        if embed_dim != in_features:
            raise ValueError(
                f"head none changes no width: expected embed_dim={in_features}, the width of the tower's features, got {embed_dim}; "
                "linear maps to any width"
            )

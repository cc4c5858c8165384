"""A feature map as the list of its pixels, so that a head may read the pixels of a map and the tokens of a transformer alike."""

from torch import Tensor


def pixels(x: Tensor, in_features: int, head: str) -> Tensor:
    """`[B, in_features, H, W]` -> `[B, H * W, in_features]`; tokens `[B, N, in_features]` stay as they are.

    Raises:
        ValueError: neither a map nor tokens of that width.
    """
    if x.dim() == 4 and x.shape[1] == in_features:
        return x.flatten(2).transpose(1, 2)
    if x.dim() == 3 and x.shape[2] == in_features:
        return x
    raise ValueError(
        f"head {head}: expected a map [B, {in_features}, H, W] or tokens [B, N, {in_features}], got {list(x.shape)}"
        + ("; linear reads vectors" if x.dim() == 2 else "")
    )

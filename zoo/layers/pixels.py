"""The n - 1 of an unbiased variance over the pixels, for maps that may be a single one."""

import torch


@torch.fx.wrap  # a tracer sees no size to compare with
def _degrees_of_freedom(x: torch.Tensor) -> int:
    return max(x.shape[2] * x.shape[3] - 1, 1)


def degrees_of_freedom(x: torch.Tensor) -> int:
    """H * W - 1 of a [B, C, H, W], and 1 where there is one pixel: its deviation is zero, which must stay zero and not become 0 / 0."""
    return _degrees_of_freedom(x)

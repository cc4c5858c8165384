"""Statistics in float32, whatever the network runs in."""

import torch


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32 if it is half precision; float32 and float64 as they are. A sum of squares soon leaves float16 (65504)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

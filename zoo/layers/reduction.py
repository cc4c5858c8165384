"""The width of a gate's bottleneck."""


def rd_channels(channels: int, rd_ratio: float, *, least: int = 1) -> int:
    """`channels * rd_ratio`, rounded down, at least `least`. Ratios have no exact floats: 176 * (30 / 176) is 29.999..., and means 30."""
    return max(least, int(channels * rd_ratio + 1e-6))

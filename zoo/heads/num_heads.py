"""How many attention heads a width is cut into: about one for 64 channels, as in CLIP and ViT, but a number that divides it."""


def num_heads(width: int, asked: int | None = None) -> int:
    """The number asked for, or the divisor of the width that is nearest to width / 64: 20 of 1280, 15 of 960, 2 of 100, 1 of 24.

    Raises:
        ValueError: the number asked for does not divide the width.
    """
    divisors = [number for number in range(1, width + 1) if width % number == 0]
    nearest = min(divisors, key=lambda number: abs(number - (width / 64 if asked is None else asked)))
    if asked not in (None, nearest):
        raise ValueError(f"num_heads: expected a number that divides the {width} features, got {asked}; the nearest is {nearest}")
    return nearest

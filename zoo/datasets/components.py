"""Connected components: which rows hang together when "same as" is known only pair by pair.

Characters that look alike in one font or another, and manifest rows that share a picture or an id, are both this question.
"""

from collections.abc import Iterable

import numpy as np


def components(size: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """`[size]` int64: for every item the smallest index that it is connected to, itself included.

    Args:
        size: how many items there are.
        pairs: indices of two items that are the same.
    """
    parent = list(range(size))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in pairs:
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    return np.array([root(item) for item in range(size)], dtype=np.int64)

"""Connected components against repeated squaring of the adjacency matrix."""

import numpy as np

from zoo.datasets.components import components


def test_against_the_transitive_closure():
    rng = np.random.default_rng(0)
    for size, count in ((1, 0), (5, 0), (40, 25), (40, 60)):
        pairs = [tuple(int(each) for each in rng.integers(0, size, 2)) for _ in range(count)]
        reach = np.eye(size, dtype=int)
        for a, b in pairs:
            reach[a, b] = reach[b, a] = 1
        for _ in range(7):
            reach = (reach @ reach > 0).astype(int)
        expected = reach.argmax(1)  # the first index that can be reached
        assert components(size, pairs).tolist() == expected.tolist()
    assert len(set(expected.tolist())) < size

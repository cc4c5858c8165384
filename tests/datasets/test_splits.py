"""What is held out: a fifth, the same one everywhere; and the order of labels."""

import hashlib

import numpy as np
import pytest

from zoo.datasets.splits import held_out, sort_classes


def test_about_a_fifth_by_the_hash_of_the_name_alone():
    keys = [f"picture {index}.jpg" for index in range(5000)]
    out = held_out(keys)
    assert abs(out.mean() - 0.2) < 4 * (0.2 * 0.8 / 5000) ** 0.5
    first_byte = np.array([hashlib.blake2b(key.encode(), digest_size=8).hexdigest()[:2] for key in keys])
    assert out[first_byte < "33"].all() and not out[first_byte > "33"].any()  # 0x33 / 256 is a fifth
    assert (held_out(keys[::-1])[::-1] == out).all()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_both_sides_have_one_where_there_are_two(count):
    for seed in range(200):
        out = held_out([f"{seed}/{index}" for index in range(count)])
        assert 0 < out.sum() < count
    assert held_out(["alone"]).tolist() == [False]
    assert held_out([]).tolist() == []


def test_classes_in_order_of_number_or_name():
    assert sort_classes(["10", "9", "-1", "9"]) == ("-1", "9", "10")
    assert sort_classes(["10", "9", "b"]) == ("10", "9", "b")
    assert sort_classes([]) == ()

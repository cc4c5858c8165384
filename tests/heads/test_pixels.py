"""Maps become rows of pixels, tokens stay, and the rest is refused; and the number of attention heads divides the width."""

import pytest
import torch

from zoo.heads.num_heads import num_heads
from zoo.heads.pixels import pixels


def test_pixel_by_pixel():
    x = torch.randn(2, 3, 4, 5)
    rows = pixels(x, 3, "map")
    assert rows.shape == (2, 20, 3)
    for row in range(4):
        for column in range(5):
            assert torch.equal(rows[:, 5 * row + column], x[:, :, row, column])


def test_tokens_stay():
    x = torch.randn(2, 7, 3)
    assert pixels(x, 3, "map") is x


def test_the_message_names_the_head_for_vectors():
    with pytest.raises(
        ValueError, match=r"head gem: expected a map \[B, 3, H, W\] or tokens \[B, N, 3\], got \[2, 3\]; linear reads vectors"
    ):
        pixels(torch.randn(2, 3), 3, "gem")


@pytest.mark.parametrize(
    ("width", "expected"), [(1280, 20), (960, 15), (768, 12), (256, 4), (100, 2), (97, 1), (24, 1), (1, 1), (1000, 20)]
)
def test_about_one_for_64_channels(width, expected):
    assert num_heads(width) == expected and width % expected == 0


def test_as_asked_if_it_divides():
    assert num_heads(1280, 8) == 8
    with pytest.raises(ValueError, match="divides the 100 features, got 8; the nearest is 10"):
        num_heads(100, 8)

"""The picture in grey under the heat in colour."""

import numpy as np
import pytest
from PIL import Image

from zoo.report import overlay


def test_size_and_mode_whatever_comes_in():
    heat = np.linspace(0, 1, 12).reshape(3, 4)
    for mode in ("RGB", "L", "RGBA", "P"):
        drawn = overlay(Image.new(mode, (37, 21)), heat)
        assert drawn.mode == "RGB" and drawn.size == (37, 21)


def test_more_heat_is_lighter_and_the_picture_shows():
    black = np.asarray(overlay(Image.new("RGB", (64, 32)), np.array([[0.0, 1.0]]))).astype(int)
    assert black[:, -1].sum(1).min() > black[:, 0].sum(1).max() + 200
    edge = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 16, 1).repeat(32, 0))
    flat = np.asarray(overlay(edge, np.full((2, 2), 0.5))).astype(int)
    assert (flat[:, 31] - flat[:, 0]).min() > 60, "light and dark of the picture under one colour"


def test_outside_of_the_scale_is_the_nearest_and_no_number_is_nothing():
    picture = Image.new("RGB", (8, 8), "gray")

    def of(value):
        return np.asarray(overlay(picture, np.full((2, 2), value)))

    assert np.array_equal(of(-3.0), of(0.0)) and np.array_equal(of(7.0), of(1.0)) and np.array_equal(of(np.nan), of(0.0))
    assert np.array_equal(of(np.inf), of(1.0)) and not np.array_equal(of(0.0), of(1.0))


@pytest.mark.parametrize("heat", [np.zeros(4), np.zeros((2, 2, 2)), np.zeros((0, 4))])
def test_no_map(heat):
    with pytest.raises(ValueError, match="expected a map"):
        overlay(Image.new("RGB", (8, 8)), heat)

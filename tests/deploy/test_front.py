"""What nothing beats in time and accuracy: against the definition, for points with ties."""

import itertools
import random
from pathlib import Path

import pytest
from PIL import Image

from zoo.deploy.front import Point, choice, draw, front, picture_kind


def point(cost, worth, name="a", series="r"):
    return Point(name, series, cost, worth)


def test_known_fronts():
    fast, good, between, beaten = point(1, 80), point(9, 95), point(5, 90), point(6, 90)
    assert front([beaten, good, between, fast]) == [fast, between, good]
    assert front([]) == []
    twins = [point(1, 80, "b"), point(1, 80, "a")]
    assert front(twins) == twins[::-1], "equal ones are all on it"
    assert front([point(1, 80), point(1, 81)]) == [point(1, 81)], "as fast and better"
    assert front([point(1, 80), point(2, 80)]) == [point(1, 80)], "as good and faster"


def test_against_the_definition():
    draw_one = random.Random(0)
    for _ in range(50):
        points = [point(draw_one.randrange(6), draw_one.randrange(6), str(number)) for number in range(draw_one.randrange(1, 12))]
        found = front(points)
        for one in points:
            dominated = any(
                (o.cost, -o.worth) != (one.cost, -one.worth) and o.cost <= one.cost and o.worth >= one.worth for o in points if o != one
            )
            assert (one in found) == (not dominated)
        assert all(a.cost <= b.cost and a.worth <= b.worth for a, b in itertools.pairwise(found))


def test_the_fastest_that_is_good_enough():
    points = [point(1, 90), point(3, 96.6), point(4, 97), point(2, 96.4)]
    assert choice(points) == point(3, 96.6)
    assert choice(points, within=0) == point(4, 97) and choice(points, within=50) == point(1, 90)
    assert choice([point(1, 90), point(1, 90.2)]) == point(1, 90.2), "of two as fast the better"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture(tmp_path, suffix):
    path = tmp_path / "new" / f"front.{suffix}"
    draw([("one", [point(1, 90, "$a_b$"), point(2, 91, "b", "s")]), ("two", [])], path, cost="ms", worth="%")
    if suffix == "png":
        picture = Image.open(path).convert("L")
        assert picture.width > picture.height > 300 and len(picture.getcolors(256)) > 20
    else:
        assert "<svg" in path.read_text()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_no_picture():
    with pytest.raises(ValueError, match="expected a picture such as front.png or front.svg, got front.txt"):
        picture_kind(Path("front.txt"))

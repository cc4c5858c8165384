"""The picture of the house has the rooms that there are, on the floors that the imports are held to."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "site" / "house.py")
    sys.modules["house"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_room_is_drawn_once(house):
    rooms = {
        f"zoo.{path.stem}"
        for path in (ROOT / "zoo").iterdir()
        if path.stem not in ("__pycache__", "__init__", "__main__") and (path.is_dir() or path.suffix == ".py")
    }
    drawn = [room for storey in house.storeys() for room in storey]
    assert sorted([*drawn, *house.floors()["ANYBODY"]]) == sorted([*rooms, "registry"])
    for room in drawn:
        assert f">{room.removeprefix('zoo.')}</text>" in house.picture()


def test_floors_are_in_order(house):
    floor = house.floors()["FLOOR"]
    heights = [{floor[room] for room in storey} for storey in house.storeys()]
    assert all(len(each) == 1 for each in heights)
    assert heights == sorted(heights, key=min) and house.storeys()[0] == ["registry"]


def test_what_is_said_is_of_rooms_that_have_a_floor(house):
    assert set(house.SAYS) <= set(house.floors()["FLOOR"])

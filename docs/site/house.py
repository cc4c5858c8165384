"""The picture of the house, drawn from the table of floors that tests/test_floors.py holds the imports to."""

import ast
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, GAP, ROOF, STAIRS = 740, 50, 6, 76, 104

SAYS = {  # what a room does, in a few words; a room without any has its name alone
    "registry": "names → things; standard library only",
    "zoo.layers": "what several gates are made of",
    "zoo.attention": "gates",
    "zoo.towers": "text, table, sound",
    "zoo.heads": "to joint space",
    "zoo.losses": "of a pair",
    "zoo.datasets": "and their readers",
    "zoo.backbones": "attention × EfficientNet; the swap",
    "zoo.joint": "modalities that meet",
    "zoo.train": "the loop, its tasks, its files",
    "zoo.evaluate": "numbers from logits and embeddings",
    "zoo.deploy": "speed, search, other runtimes",
    "zoo.report": "to look at",
    "zoo.compress": "prune, quantize, distil",
    "zoo.build": "the edge: names become objects",
    "zoo.cli": "the command zoo, one file a verb",
}


def floors() -> dict[str, Any]:
    """FLOOR, ANYBODY and SHELVES of tests/test_floors.py, without importing it: it needs pytest."""
    tree = ast.parse((ROOT / "tests" / "test_floors.py").read_text(encoding="utf-8"))
    wanted = ("SHELVES", "FLOOR", "ANYBODY")
    kept = [each for each in tree.body if isinstance(each, ast.Assign) and getattr(each.targets[0], "id", "") in wanted]
    names: dict[str, Any] = {}
    exec(compile(ast.Module(kept, []), "tests/test_floors.py", "exec"), names)
    return {name: names[name] for name in wanted}


def storeys() -> list[list[str]]:
    """The rooms that there are, a list a floor, the ground first; what is above the command (`zoo` itself) is the roof."""
    table = floors()["FLOOR"]
    rooms = sorted((room for room in table if _exists(room) and table[room] < 7), key=table.__getitem__)
    return [list(group) for _, group in groupby(rooms, table.__getitem__)]


def _exists(room: str) -> bool:
    path = ROOT / room.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def _room(x: float, y: float, width: float, name: str, kind: str, says: str) -> str:
    middle = x + width / 2
    words = f'<text x="{middle:.1f}" y="{y + 38}" class="says" text-anchor="middle">{escape(says)}</text>' if says else ""
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{HEIGHT}" rx="3" class="{kind}"/>'
        f'<text x="{middle:.1f}" y="{y + (21 if says else 30)}" class="room" text-anchor="middle">{escape(name)}</text>{words}'
    )


def picture() -> str:
    """An <svg> element in a frame that scrolls on a narrow screen."""
    rows = storeys()
    table = floors()
    shelf_rooms = {f"zoo.{shelf}" for shelf in table["SHELVES"]}
    inner = WIDTH - STAIRS - 2 * GAP
    height = ROOF + len(rows) * (HEIGHT + GAP) + GAP
    drawn = [
        f'<path d="M{WIDTH / 2} 4L{WIDTH - 2} {ROOF - 6}L2 {ROOF - 6}z" class="roof"/>',
        f'<text x="{WIDTH / 2}" y="{ROOF - 34}" class="room" text-anchor="middle">zoo</text>',
        f'<text x="{WIDTH / 2}" y="{ROOF - 17}" class="says" text-anchor="middle">import timm, zoo</text>',
    ]
    for number, rooms in enumerate(reversed(rows)):
        y = ROOF + number * (HEIGHT + GAP)
        ground = rooms == rows[0]
        x, whole = (GAP, WIDTH - 2 * GAP) if ground else (GAP, inner)
        width = (whole - GAP * (len(rooms) - 1)) / len(rooms)
        for place, room in enumerate(rooms):
            kind = "ground" if ground else "shelf" if room in shelf_rooms else "upper"
            drawn.append(_room(x + place * (width + GAP), y, width, room.removeprefix("zoo."), kind, SAYS.get(room, "")))
    top, bottom = ROOF, ROOF + (len(rows) - 1) * (HEIGHT + GAP) - GAP
    left = WIDTH - STAIRS
    drawn.append(f'<rect x="{left}" y="{top}" width="{STAIRS - GAP}" height="{bottom - top}" rx="3" class="stairs"/>')
    middle = left + (STAIRS - GAP) / 2
    for number, each in enumerate(sorted(table["ANYBODY"])):
        drawn.append(f'<text x="{middle}" y="{(top + bottom) / 2 - 14 + 20 * number}" class="room" text-anchor="middle">{each[4:]}</text>')
    drawn.append(f'<text x="{middle}" y="{(top + bottom) / 2 + 24}" class="says" text-anchor="middle">for all</text>')
    return (
        f'<div class="flow-frame" tabindex="0"><svg class="house" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' style="max-width: {WIDTH}px; min-width: {0.8 * WIDTH:.0f}px">'
        f"<title>The house: each floor imports only what is below it</title>{''.join(drawn)}</svg></div>"
    )

"""Draws a `Flow` from top to bottom as SVG: x goes straight down on the left, what is made of it stands in lanes beside it.

A step's rank is the length of the longest way to it. The trunk, from y upwards by the first thing that each step reads, has lane 0; every
other chain of steps has the first lane to its right that is free between where the chain leaves and where it comes back. Lines run down in
lanes that are free there, and sideways in the gaps between ranks, so that none runs through a box. Colours are classes of style.css.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape

from flow import Flow, Node
from torch import nn

ROW, PADDING, GAP, BETWEEN, RADIUS, TRACK = 19, 5, 24, 18, 12, 9  # of a box's lines; of ranks and lanes; of a circle; of lines side by side
WIDE, NARROW = 7.1, 6.5  # of a character: of a sentence, of code; a little more than they are

SECOND = {"−": "subtracted", "÷": "divisor"}  # what the second value of a circle is, where it matters


@dataclass(eq=False)
class Box:
    """One or more steps that are drawn as one: a convolution with its norm and activation."""

    steps: list[Node]
    rank: int = 0
    lane: int = -1
    x: float = 0
    y: float = 0
    before: list["Box"] = field(default_factory=list)
    after: list["Box"] = field(default_factory=list)

    @property
    def round(self) -> bool:
        return self.steps[0].kind in ("joint", "input") or self.steps[-1].label == "y"

    @property
    def rows(self) -> list[tuple[str, str]]:
        """(what it does, the name that the gate has for it or the shape that comes out)."""
        rows = [(step.label, step.path) for step in self.steps]
        came = self.steps[0].inputs[0].shape if self.steps[0].inputs else ""
        shape = self.steps[-1].shape
        if shape != came and not self.round:
            rows = [(rows[0][0], shape)] if len(rows) == 1 and not rows[0][1] else [*rows, ("", shape)]
        return rows

    @property
    def width(self) -> float:
        if self.round:
            return 2 * RADIUS
        return max(len(text) * WIDE + len(name) * NARROW + (14 if text and name else 0) for text, name in self.rows) + 20

    @property
    def height(self) -> float:
        return 2 * RADIUS if self.round else len(self.rows) * ROW + 2 * PADDING


def _follows(step: Node) -> bool:
    """Whether it is drawn in the box of the layer before it: norms and activations behind a convolution, a shift behind a scale."""
    before = step.inputs[0] if len(step.inputs) == 1 else None
    if before is None or before.kind != "layer" or len(before.consumers) != 1 or step.kind != "layer":
        return False
    if step.module is None:
        return before.module is None and step.label in ("×", "+")
    own = next(step.module.parameters(), None)
    norm = isinstance(step.module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)
    return before.module is not None and (norm or own is None) and "sigmoid" not in step.label


def boxes(flow: Flow) -> list[Box]:
    """The boxes in order, joined, with rank and lane."""
    of: dict[int, Box] = {}
    found: list[Box] = []
    for step in flow.nodes:
        if _follows(step):
            of[id(step)] = of[id(step.inputs[0])]
            of[id(step)].steps.append(step)
            continue
        box = of[id(step)] = Box([step])
        found.append(box)
        for each in step.inputs:
            box.before.append(of[id(each)])
            of[id(each)].after.append(box)
    end = Box([Node("input", "y", [flow.y], flow.y.value)], before=[of[id(flow.y)]])
    of[id(flow.y)].after.append(end)
    found.append(end)
    for box in found:
        box.rank = max((before.rank + 1 for before in box.before), default=0)
    for box in reversed(found):
        if not box.before and box.after and box.rank == 0 and box is not found[0]:
            box.rank = min(after.rank for after in box.after) - 1  # a parameter stands just above what reads it
    _lanes(found)
    return found


def _lanes(found: list[Box]) -> None:
    trunk = [found[-1]]
    while trunk[-1].before:
        trunk.append(trunk[-1].before[0])
    taken: list[list[tuple[int, int]]] = [[(0, found[-1].rank)]]
    for box in trunk:
        box.lane = 0
    rest = [box for box in found if box.lane < 0]
    while rest:
        chain = _longest(rest)
        start = max((before.rank for before in chain[0].before), default=chain[0].rank - 1) + 1
        end = max((after.rank for after in chain[-1].after), default=chain[-1].rank + 1) - 1
        lane = 1
        while lane < len(taken) and any(low <= end and start <= high for low, high in taken[lane]):
            lane += 1
        taken += [[]] * (lane + 1 - len(taken))
        taken[lane] = [*taken[lane], (start, end)]
        for box in chain:
            box.lane = lane
        rest = [box for box in rest if box.lane < 0]


def _longest(rest: list[Box]) -> list[Box]:
    """The longest chain of boxes that have no lane yet; of equal ones the first."""
    best: dict[int, list[Box]] = {}
    for box in rest:
        before = [best[id(each)] for each in box.before if id(each) in best]
        best[id(box)] = [*max(before, key=len, default=[]), box]
    return max(best.values(), key=len)


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _draw(box: Box) -> list[str]:
    if box.round:
        kind = "joint" if box.steps[0].kind == "joint" else "end"
        return [
            f'<circle cx="{box.x:.1f}" cy="{box.y + RADIUS:.1f}" r="{RADIUS}" class="{kind}"/>',
            _text(box.x, box.y + RADIUS + 5, box.steps[0].label, "sign", "middle"),
        ]
    kind = "learned" if any(step.kind == "layer" and _has_parameters(step) for step in box.steps) else "plain"
    left, right = box.x - box.width / 2, box.x + box.width / 2
    corner = 11 if kind == "plain" else 4
    place = f'x="{left:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="{corner}"'
    drawn = [f'<rect {place} class="{kind}"/>']
    for number, (text, name) in enumerate(box.rows):
        base = box.y + PADDING + ROW * number + 13.5
        if text and not name:
            drawn.append(_text(box.x if len(box.rows) == 1 else left + 10, base, text, "what", "middle" if len(box.rows) == 1 else "start"))
        else:
            shape = "×" in name or not text
            drawn += [_text(left + 10, base, text, "what")] if text else []
            drawn.append(_text(right - 10, base, name, "shape" if shape else "name", "end"))
    return drawn


def _has_parameters(step: Node) -> bool:
    return step.module is None or next(step.module.parameters(), None) is not None


@dataclass(eq=False)
class Line:
    """From a box down to another: sideways in the gap below one rank, down in a lane, and sideways in the gap above another rank."""

    start: Box
    end: Box
    lane: int  # in which it runs down
    offset: float = 0  # where it meets the end, from its middle
    aside: bool = False  # it meets a circle from its side


class _Lanes:
    """Who has a lane between two ranks: boxes, and lines with one start or one end."""

    def __init__(self, found: list[Box]):
        self.taken: list[tuple[int, int, int, object]] = [(box.lane, box.rank, box.rank, box) for box in found]

    @property
    def count(self) -> int:
        return max(lane for lane, *_ in self.taken) + 1

    def free(self, lane: int, low: int, high: int, *owners: object) -> bool:
        return all(by in owners or where != lane or high < first or last < low for where, first, last, by in self.taken)

    def take(self, line: Line, low: int, high: int, owner: object) -> Line:
        if low <= high:
            self.taken.append((line.lane, low, high, owner))
        return line


def _lines(found: list[Box]) -> list[Line]:
    lanes = _Lanes(found)
    edges = [(before, box) for box in found for before in box.before]
    drawn = []
    for start, end in sorted(edges, key=lambda edge: edge[0].lane != edge[1].lane):  # straight ones first
        low, high = start.rank + 1, end.rank - 1
        ways = [(end.lane, (start, "from")), (start.lane, (end, "to"))]  # turn at once, or at last
        ways = ways if start.lane <= end.lane else ways[::-1]
        ways += [(lane, (start, "from")) for lane in range(1, lanes.count + 1)]
        lane, owner = next((lane, owner) for lane, owner in ways if lanes.free(lane, low, high, owner))
        drawn.append(lanes.take(Line(start, end, lane), low, high, owner))
    for box in found:
        coming = [line for line in drawn if line.end is box]
        beside = [line for line in coming if line.lane != box.lane or line.start.lane != box.lane]
        rows = [(other.lane, other.rank) for other in found]
        for number, line in enumerate(sorted(beside, key=lambda line: line.lane), len(coming) == len(beside)):
            if box.round and line.lane > box.lane and not any((lane, box.rank) in rows for lane in range(box.lane + 1, line.lane + 1)):
                line.aside = True
            else:
                line.offset = number * 8 if box.round else (number + (len(coming) > len(beside))) * 16
        if len(coming) == len(beside) > 1 and not box.round:  # no line comes straight: evenly about the middle
            for number, line in enumerate(sorted(beside, key=lambda line: line.lane)):
                line.offset = (number - (len(beside) - 1) / 2) * 28
        elif len(coming) == len(beside) == 1:
            beside[0].offset = 0
    return drawn


def _tracks(lines: list[Line], centres: list[float]) -> dict[tuple[int, object], int]:
    """Which of the lines side by side in the gap below a rank is whose: what leaves one box shares a line, what arrives has its own."""
    spans: dict[tuple[int, object], tuple[float, float]] = {}
    for line in lines:
        for gap, owner, one, other in _turns(line, centres):
            low, high = spans.get((gap, owner), (one, one))
            spans[gap, owner] = min(low, one, other), max(high, one, other)
    tracks: dict[tuple[int, object], int] = {}
    for (gap, owner), (low, high) in sorted(spans.items(), key=lambda item: (isinstance(item[0][1], Line), -item[1][1])):
        used = {
            track
            for (where, by), track in tracks.items()
            if where == gap and spans[where, by][0] <= high + 6 and low <= spans[where, by][1] + 6
        }
        tracks[gap, owner] = next(track for track in range(len(used) + 1) if track not in used)
    return tracks


def _turns(line: Line, centres: list[float]) -> list[tuple[int, object, float, float]]:
    """(rank above the gap, whose line it is, from where, to where) of each way sideways."""
    start, lane, end = centres[line.start.lane], centres[line.lane], centres[line.end.lane] + line.offset
    if line.end.rank == line.start.rank + 1 and not line.aside:
        return [(line.start.rank, line.start, start, end)] if start != end else []
    turns: list[tuple[int, object, float, float]] = []
    if line.lane == line.end.lane and start != end:  # straight on to where it meets the end
        return [(line.start.rank, line.start, start, end)]
    if start != lane:
        turns.append((line.start.rank, line.start, start, lane))
    if not line.aside and lane != end:
        turns.append((line.end.rank - 1, line, lane, end))
    return turns


def picture(flow: Flow, title: str) -> str:
    """An <svg> element; `title` is what it shows, for people who do not see it."""
    found = boxes(flow)
    lines = _lines(found)
    lanes = max(line.lane for line in lines) + 1
    widths = [max((box.width for box in found if box.lane == lane), default=0) for lane in range(lanes)]
    centres, right = [], 0.0
    for width in widths:
        centres.append(right + width / 2)
        right += width + BETWEEN
    tracks = _tracks(lines, centres)
    tops, heights, bottom = [], [], 2.0
    for rank in range(max(box.rank for box in found) + 1):
        tops.append(bottom)
        heights.append(max(box.height for box in found if box.rank == rank))
        beside = max((track for (gap, _), track in tracks.items() if gap == rank), default=0)
        bottom += heights[rank] + GAP + TRACK * beside
    for box in found:
        box.x = centres[box.lane]
        box.y = tops[box.rank] + (heights[box.rank] - box.height) / 2
    drawn = []
    for line in lines:
        points = [(line.start.x, line.start.y + line.start.height)]
        for gap, owner, one, other in _turns(line, centres):
            sideways = tops[gap] + heights[gap] + 9 + TRACK * tracks[gap, owner]
            points += [(one, sideways), (other, sideways)]
        if line.aside:
            middle = line.end.y + RADIUS
            points += [(points[-1][0], middle), (line.end.x + RADIUS, middle)]
        else:
            into = line.end.y + (RADIUS - (RADIUS**2 - line.offset**2) ** 0.5 if line.end.round and abs(line.offset) < RADIUS else 0)
            points.append((line.end.x + line.offset, into))
        drawn.append(_path(points))
        if line.end.steps[0].label in SECOND and line.end.round and line.start is line.end.before[1]:
            x, y = points[-1]
            drawn.append(_text(x + 8, y - 5, SECOND[line.end.steps[0].label], "name"))
    drawn += _dots(found, lines, centres, lambda gap, owner: tops[gap] + heights[gap] + 9 + TRACK * tracks[gap, owner])
    for box in found:
        drawn += _draw(box)
    height, width = bottom - GAP + 2, right - BETWEEN
    return (
        f'<svg class="flow" viewBox="-2 0 {width + 4:.0f} {height:.0f}" role="img"'
        f' style="max-width: {width + 4:.0f}px; min-width: {0.8 * width:.0f}px">'
        f"<title>{escape(title)}</title>{''.join(drawn)}</svg>"
    )


def _dots(found: list[Box], lines: list[Line], centres: list[float], track: Callable[[int, object], float]) -> list[str]:
    """Where a line parts: a dot tells it from two that cross."""
    drawn = []
    for box in found:
        leaving = [line for line in lines if line.start is box]
        turns = [turn for line in leaving for turn in _turns(line, centres) if turn[1] is box]
        ends = [other for _, _, _, other in turns]
        straight = len(leaving) > len(turns)
        parts = {end for end in ends if (min(ends) < end or end > box.x) and (end < max(ends) or end < box.x)}
        if turns and (straight or min(ends) < box.x < max(ends)):
            parts.add(box.x)
        drawn += [f'<circle cx="{x:.1f}" cy="{track(box.rank, box):.1f}" r="2.4" class="head"/>' for x in sorted(parts)]
    return drawn


def _path(points: list[tuple[float, float]]) -> str:
    """The line, and an arrowhead in its last direction."""
    way = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    (x, y), (came, _) = points[-1], points[-2]
    head = (
        f"M{x + 6:.1f} {y - 4:.1f}L{x:.1f} {y:.1f}L{x + 6:.1f} {y + 4:.1f}z"
        if came > x
        else f"M{x - 4:.1f} {y - 6:.1f}L{x:.1f} {y:.1f}L{x + 4:.1f} {y - 6:.1f}z"
    )
    return f'<path d="M{way}" class="line"/><path d="{head}" class="head"/>'

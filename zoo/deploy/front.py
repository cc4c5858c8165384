"""Accuracy against time: which networks nothing beats in both, which one to take, and the picture of it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write_whole

WITHIN = 0.5  # points of the best: what accuracy may be given for speed


@dataclass(frozen=True)
class Point:
    """
    Args:
        name, series: what it is, and what it is drawn with: a network and a runtime.
        cost: the less the better, milliseconds.
        worth: the more the better, accuracy in percent.
    """

    name: str
    series: str
    cost: float
    worth: float


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other point beats: as good in both, and better in one. By cost; equal ones are all on it."""

    def beaten(one: Point) -> bool:
        return any(
            each.cost <= one.cost and each.worth >= one.worth and (each.cost < one.cost or each.worth > one.worth) for each in points
        )

    return sorted((each for each in points if not beaten(each)), key=lambda each: (each.cost, each.name, each.series))


def choice(points: Sequence[Point], within: float = WITHIN) -> Point:
    """The cheapest that is worth as much as the best, less `within`."""
    best = max(each.worth for each in points)
    return min((each for each in points if each.worth >= best - within), key=lambda each: (each.cost, -each.worth))


def picture_kind(path: Path) -> str:
    """The format that a suffix asks for.

    Raises:
        ValueError: a suffix that matplotlib does not write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kind = path.suffix.lstrip(".").lower()
    if kind not in FigureCanvasAgg.get_supported_filetypes():
        raise ValueError(f"out: expected a picture such as front.png or front.svg, got {path.name}")
    return kind


def draw(panels: Sequence[tuple[str, Sequence[Point]]], path: Path, *, cost: str, worth: str, with_front: bool = True) -> None:
    """A picture, in the format of the suffix: a panel each, a colour a series, the front as a line.

    Args:
        panels: title and points.
        cost, worth: labels of the axes; the first is logarithmic.
        with_front: whether more of `worth` is better.

    Raises:
        ValueError: a suffix that matplotlib does not write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind = picture_kind(path)
    figure = Figure(figsize=(7 * len(panels), 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {series: f"C{number}" for number, series in enumerate(dict.fromkeys(each.series for _, points in panels for each in points))}
    for axes, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set(title=title, xlabel=cost, ylabel=worth, xscale="log")
        for series, colour in colours.items():
            some = [each for each in points if each.series == series]
            axes.scatter([each.cost for each in some], [each.worth for each in some], color=colour, label=series)
        best = front(points) if with_front else []
        axes.plot([each.cost for each in best], [each.worth for each in best], color="black", linewidth=0.8, zorder=0)
        for each in best or points:
            axes.annotate(each.name, (each.cost, each.worth), xytext=(4, 4), textcoords="offset points", fontsize=8, parse_math=False)
        if points:
            axes.legend(fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())

"""Curves as lines in a plane of 400 x 240, ready to be drawn as SVG: where the ticks are, and each line cut where a number is missing."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .journal import Numbers

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 34  # what is left for the ticks
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MARKED = 16  # points of a line that are marked
KINDS = 6  # of lines that can be told apart by colour; after that by dashes as well

NAMES = {
    **{"loss": "Training loss", "eval_loss": "Evaluation loss", "lr": "Learning rate", "seconds": "Seconds an epoch"},
    **{"top1": "Top-1 accuracy", "top5": "Top-5 accuracy", "mAP": "Mean average precision", "macro_f1": "Macro F1", "R@1": "Recall at 1"},
}
PERCENT = ("top1", "top5", "mAP", "macro_f1", "micro_f1", "R@1", "R@5", "R@10")


def name_of(key: str) -> str:
    """What a person calls a number of metrics.jsonl."""
    way, _, last = key.rpartition(" ")
    return f"{NAMES.get(last, last)}{f', {way}' if way else ''}"


def shown(key: str, value: float | None) -> str:
    """A number with as many digits as it deserves."""
    if value is None or not math.isfinite(value):
        return "none"
    if key.rpartition(" ")[2] in PERCENT:
        return f"{value:.1f} %"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


@dataclass(frozen=True)
class Point:
    """A number of an epoch: its place, and how it is written."""

    x: float
    y: float
    epoch: int
    text: str


@dataclass(frozen=True)
class Line:
    """`kind` is its colour, `paths` an SVG path for every stretch without a gap."""

    name: str
    kind: int
    dashed: int
    points: tuple[Point, ...]
    paths: tuple[str, ...]
    last: str


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A plot. `gaps` says which epochs have no number."""

    title: str
    lines: tuple[Line, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    gaps: str

    @property
    def dense(self) -> bool:
        """Whether a mark at every point would hide the lines."""
        return max(len(line.points) for line in self.lines) > _MARKED

    @property
    def told(self) -> str:
        """In words, for who does not see it."""
        first, last = (pick(point.epoch for line in self.lines for point in line.points) for pick in (min, max))
        each = (f"{line.name}: from {line.points[0].text} to {line.points[-1].text}" for line in self.lines)
        return f"{self.title} over epochs {first} to {last}. {'; '.join(each)}"


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, some `about` steps apart."""
    if not high > low:
        pad = abs(low) * 0.1 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * each for each in (1, 2, 2.5, 5, 10) if unit * each >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * number for number in range(first, last + 1)]


def _written(value: float, step: float) -> str:
    digits = next((each for each in range(9) if math.isclose(round(step, each), step, rel_tol=1e-6)), 9)
    return f"{value:,.{digits}f}"


def _power(values: Sequence[float]) -> int:
    """The power of ten that very small and very large numbers are written without."""
    largest = max(abs(value) for value in values)
    return math.floor(math.log10(largest)) if largest and not 0.01 <= largest < 1e5 else 0


def chart(
    title: str, key: str, lines: Mapping[str, Sequence[tuple[int, float]]], *, kinds: Mapping[str, int] | None = None
) -> Chart | None:
    """A plot of several lines.

    Args:
        title: above it.
        key: whose numbers they are, for how they are written.
        lines: name -> (epoch, value), in order; a value that is none leaves a gap.
        kinds: name -> number of its colour; in the order of the lines by default.

    Returns:
        None where there is no number at all.
    """
    finite = {name: [(epoch, value) for epoch, value in each if math.isfinite(value)] for name, each in lines.items()}
    there = [name for name, each in finite.items() if each]
    if not there:
        return None
    values = [value for name in there for _, value in finite[name]]
    epochs = [epoch for name in there for epoch, _ in finite[name]]
    low, high = min(values), max(values)
    marks = ticks(low, high)
    if key in PERCENT:
        marks = [mark for mark in marks if -1e-9 <= mark <= 100 + 1e-9] or marks
    power = _power(marks)
    bottom, top = min(marks[0], low), max(marks[-1], high)
    first, last = min(epochs), max(epochs)

    def place(epoch: float, value: float) -> tuple[float, float]:
        across = 0.5 if first == last else (epoch - first) / (last - first)
        up = (value - bottom) / (top - bottom)
        return round(LEFT + across * (WIDTH - LEFT - RIGHT), 1), round(TOP + (1 - up) * (HEIGHT - TOP - BOTTOM), 1)

    step = marks[1] - marks[0] if len(marks) > 1 else 1.0
    every = max(1, math.ceil((last - first + 1) / 8))
    across = [epoch for epoch in range(first, last + 1) if (epoch - first) % every == 0]
    drawn = []
    for number, name in enumerate(there):
        points = tuple(Point(*place(epoch, value), epoch, shown(key, value)) for epoch, value in finite[name])
        kind = (kinds or {}).get(name, number)
        drawn.append(Line(name, kind % KINDS, kind // KINDS, points, _paths(lines[name], place), points[-1].text))
    missing = sorted({epoch for each in lines.values() for epoch, value in each if not math.isfinite(value)})
    named = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    return Chart(
        f"{title}, × 10{str(power).translate(_RAISED)}" if power else title,
        tuple(drawn),
        tuple(Tick(place(epoch, bottom)[0], str(epoch)) for epoch in across),
        tuple(Tick(place(first, mark)[1], _written(mark / 10**power, step / 10**power)) for mark in marks),
        f"No number in epoch {named}." if missing else "",
    )


def _paths(values: Sequence[tuple[int, float]], place: Callable[[float, float], tuple[float, float]]) -> tuple[str, ...]:
    found, stretch = [], []
    for epoch, value in [*values, (0, math.nan)]:
        if math.isfinite(value):
            stretch.append("{},{}".format(*place(epoch, value)))
        elif stretch:
            found.append("M" + " L".join(stretch) + ("h0" if len(stretch) == 1 else ""))  # a dot, by the round ends of lines
            stretch = []
    return tuple(found)


def _of(epochs: Sequence[Numbers], key: str) -> list[tuple[int, float]]:
    return [(int(each["epoch"]), each[key]) for each in epochs if key in each]


def run_charts(epochs: Sequence[Numbers], metric: str) -> list[Chart]:
    """Loss, the metric and its like, and the learning rate of one run."""
    keys = list(dict.fromkeys(key for each in epochs for key in each))
    named = {key: key.removesuffix(f" {metric}") for key in keys if key.endswith(f" {metric}")}  # image->text, text->image
    named = named or {key: name_of(key) for key in (metric, "top5", "macro_f1") if key in keys}
    wanted = [
        chart("Loss", "loss", {"training": _of(epochs, "loss"), "evaluation": _of(epochs, "eval_loss")}),
        chart(
            f"{name_of(metric)}, %",
            metric,
            {name: _of(epochs, key) for key, name in named.items()},
            kinds={name: number for number, name in enumerate(named.values(), 2)},
        ),
        chart("Learning rate", "lr", {"learning rate": _of(epochs, "lr")}, kinds={"learning rate": 5}),
    ]
    return [each for each in wanted if each is not None]


def compared_charts(runs: Mapping[str, Sequence[Numbers]], metrics: Mapping[str, str]) -> list[Chart]:
    """The runs in one plot a number; a run has the same colour in each.

    Args:
        runs: name -> its epochs.
        metrics: name -> which number stands for all; runs of several metrics are in several plots.
    """
    kinds = {name: number for number, name in enumerate(runs)}
    found = []
    for metric in dict.fromkeys(metrics.values()):
        of = {name: _of(epochs, metric) for name, epochs in runs.items() if metrics[name] == metric}
        found.append(chart(f"{name_of(metric)}, %", metric, of, kinds=kinds))
    for key in ("loss", "eval_loss"):
        found.append(chart(NAMES[key], key, {name: _of(epochs, key) for name, epochs in runs.items()}, kinds=kinds))
    return [each for each in found if each is not None]

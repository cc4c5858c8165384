"""The tables of the page: every epoch, retrieval, a card, and the runs side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .costs import SCALES, Costs, amount
from .curves import PERCENT, name_of, shown
from .examine import Examined, Subject
from .facts import metric_of, model_of, worth
from .journal import Numbers

Rows = tuple[tuple[str, ...], ...]
"""The first is the heading; empty where there is nothing to tell."""

_OF_EPOCHS = {  # key -> a heading that leaves room for the others
    **{"epoch": "Epoch", "loss": "Loss", "eval_loss": "Eval. loss", "top1": "Top-1", "top5": "Top-5", "mAP": "mAP", "R@1": "R@1"},
    **{"lr": "Rate", "seconds": "Seconds"},
}
_WEAKEST = 12
_FOUND = ("R@1", "R@5", "R@10", "mAP")
_ON_CARDS = {"parameters": "Parameters", "macs": "Multiplications a picture", "bytes": "File"}


def epoch_table(epochs: Sequence[Numbers]) -> Rows:
    keys = [key for key in _OF_EPOCHS if any(key in each for each in epochs)]
    rows = (tuple(f"{each['epoch']:.0f}" if key == "epoch" else shown(key, each.get(key)) for key in keys) for each in epochs)
    return (tuple(_OF_EPOCHS[key] for key in keys), *rows) if epochs else ()


def retrieval_table(metrics: Mapping[str, Any] | None) -> Rows:
    """Both directions of each pair, each beside a random ranking."""
    rows: list[tuple[str, ...]] = []
    for way, found in (metrics or {}).items():
        if "->" in way:
            rows.append((way.replace("->", " → "), *(f"{found[key]:.1f}" for key in _FOUND), f"{found['median_rank']:g}"))
            rows.append(("by chance", *(f"{found['chance'][key]:.1f}" for key in _FOUND), ""))
    return (("Direction", *_FOUND, "Median rank"), *rows) if rows else ()


def class_table(metrics: Mapping[str, Any] | None, classes: Sequence[str]) -> Rows:
    """Of a classifier with several labels a picture: the classes that it finds worst."""
    known = [(value, name) for name, value in zip(classes, (metrics or {}).get("AP", ()), strict=False) if value is not None]
    rows = [(name, f"{value:.1f} %") for value, name in sorted(known)[:_WEAKEST]]
    return (("Class", "Average precision"), *rows) if rows else ()


def card_table(card: Mapping[str, Any] | None) -> Rows:
    """Of a network that was made from another: each number before, after, and what became of it."""
    tables = {name: each for name, each in (card or {}).items() if isinstance(each, Mapping)}
    pair = next((names for names in (("before", "after"), ("teacher", "student")) if set(names) <= tables.keys()), None)
    if pair is None:
        return ()
    before, after = (tables[name] for name in pair)

    def told(key: str, value: Any) -> str:
        if not isinstance(value, int | float):
            return str(value or "")
        return " ".join(amount(key, value)) if key in SCALES else shown(key, value)

    def change(key: str, old: Any, new: Any) -> str:
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in (old, new)):
            return ""
        return f"{new - old:+.1f} points" if key in PERCENT else f"× {new / old:.2f}" if old else ""

    rows = (
        (
            _ON_CARDS.get(key, name_of(key)),
            told(key, before.get(key)),
            told(key, after.get(key)),
            change(key, before.get(key), after.get(key)),
        )
        for key in dict.fromkeys([*before, *after])
    )
    return (("Number", pair[0].capitalize(), pair[1].capitalize(), "Change"), *rows)


@dataclass(frozen=True)
class Value:
    """A cell of a table that sorts: `key` is what it is sorted by, None where there is none."""

    text: str = ""
    key: float | str | None = None


@dataclass(frozen=True)
class Column:
    """`larger` is better, and comes first when the table is first sorted by it."""

    name: str
    larger: bool = False


@dataclass(frozen=True)
class SideBySide:
    """A row a run, its name first; columns that no run has are left out."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]


def _number(value: Any, text: str) -> Value:
    return Value(text.format(value), value) if isinstance(value, int | float) and math.isfinite(value) else Value()


def side_by_side(subjects: Sequence[Subject], examined: Sequence[Examined], each_costs: Sequence[Costs]) -> SideBySide:
    metrics = [metric_of(each.journal.settings) for each in subjects]
    values = [worth(*each) for each in zip(subjects, examined, strict=True)]
    journals, cells = [each.journal for each in subjects], [each.cell for each in each_costs]
    losses = [
        found.metrics.get("loss") if found.metrics else journal.epochs[-1].get("eval_loss") if journal.epochs else None
        for journal, found in zip(journals, examined, strict=True)
    ]
    table: dict[Column, list[Value]] = {
        Column("Run"): [Value(each.name, each.name) for each in subjects],
        Column("Model"): [Value(model_of(each.settings), model_of(each.settings)) for each in journals],
    }
    for metric in dict.fromkeys(metrics):
        mine = zip(metrics, values, strict=True)
        table[Column(f"{name_of(metric)}, %", True)] = [_number(value if own == metric else None, "{:.1f}") for own, value in mine]
    table[Column("Evaluation loss")] = [_number(loss, "{:.3f}") for loss in losses]
    for key, name in (("parameters", "Parameters, M"), ("macs", "Multiplications, M"), ("bytes", "Weights, MB")):
        table[Column(name)] = [Value(amount(key, each.known()[key])[0], each.known()[key]) for each in each_costs]
    table[Column("Latency, ms")] = [_number(cell and cell.latency.median, "{:.3g}") for cell in cells]
    if len({cell.runtime for cell in cells if cell}) > 1:
        table[Column("Runtime")] = [Value(cell.runtime, cell.runtime) if cell else Value() for cell in cells]
    table[Column("Epochs")] = [_number(journal.done or None, "{}") for journal in journals]
    table[Column("Training, s")] = [_number(journal.seconds, "{:,.0f}") for journal in journals]
    kept = {column: each for column, each in table.items() if any(value.key is not None for value in each)}
    return SideBySide(tuple(kept), tuple(zip(*kept.values(), strict=True)))

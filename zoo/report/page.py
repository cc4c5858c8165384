"""The page: all that is known of some runs as one HTML file, with its pictures, styles and script inside.

It asks for nothing over a network, and could not: its content security policy forbids it, and lets no script run but its own. Names of
classes, files and texts are escaped by the templates, which know no other way.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..deploy.network_speed import Cell
from ..deploy.rounds import about
from .command import command, reservations
from .costs import Costs, costs
from .curves import Chart, compared_charts, name_of, run_charts
from .examine import Examined, Subject
from .facts import facts, metric_of, notes, summary, worth
from .tables import Rows, card_table, class_table, epoch_table, retrieval_table, side_by_side

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Stat:
    """A number that is shown large, with a few words below it."""

    name: str
    value: str
    unit: str
    more: str = ""


@dataclass(frozen=True)
class Section:
    """A run on the page."""

    id: str
    name: str
    summary: str
    notes: tuple[str, ...]
    stats: tuple[Stat, ...]
    facts: tuple[tuple[str, str], ...]
    command: str
    charts: tuple[Chart, ...]
    epochs: Rows
    retrieval: Rows
    classes: Rows
    examined: Examined
    costs: tuple[tuple[str, str], ...]
    card: Rows


def _stats(subject: Subject, examined: Examined, its: Costs) -> tuple[Stat, ...]:
    found, value = [], worth(subject, examined)
    if value is not None:
        on = f"on {len(subject.rows):,} rows" if examined.metrics and subject.rows is not None else "when it was last evaluated"
        found.append(Stat(name_of(metric_of(subject.journal.settings)), f"{value:.1f}", "%", on))
    named = {"parameters": ("Parameters", ""), "macs": ("Multiplications", "for one picture"), "bytes": ("Weights", "on disk")}
    found += [Stat(named[key][0], *amount, named[key][1]) for key, amount in its.amounts().items()]
    if its.cell is not None:
        found.append(Stat("Latency", f"{its.cell.latency.median:.3g}", "ms", "one picture, one thread"))
    return tuple(found)


def _section(number: int, subject: Subject, examined: Examined, its: Costs) -> Section:
    journal = subject.journal
    return Section(
        id=f"run-{number}",
        name=subject.name,
        summary=summary(journal),
        notes=(*notes(subject, examined), *reservations(journal)),
        stats=_stats(subject, examined, its),
        facts=facts(subject),
        command=command(journal),
        charts=tuple(run_charts(journal.epochs, metric_of(journal.settings))),
        epochs=epoch_table(journal.epochs),
        retrieval=retrieval_table(examined.metrics),
        classes=class_table(examined.metrics, journal.config.get("label_names") or ()),
        examined=examined,
        costs=its.rows(),
        card=card_table(journal.card),
    )


def page(subjects: Sequence[Subject], examined: Sequence[Examined], cells: Mapping[str, Cell], *, speed_notes: Sequence[str] = ()) -> str:
    """The page.

    Args:
        subjects: the runs, in order; at least one.
        examined: what an evaluation of each has shown.
        cells: name of a run -> its measured speed.
        speed_notes: what disturbed the measuring, or was left out of it.
    """
    import jinja2
    from markupsafe import Markup

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    script = (TEMPLATES / "script.js").read_text()
    each_costs = [costs(subject, cells.get(subject.name)) for subject in subjects]
    together = list(zip(subjects, examined, each_costs, strict=True))
    several, machine = len(subjects) > 1, about()
    learned = {each.name: each.journal.epochs for each in subjects if each.journal.epochs}
    return templates.get_template("page.html").render(
        title=f"{len(subjects)} runs side by side" if several else subjects[0].name,
        sections=[_section(number, *each) for number, each in enumerate(together, 1)],
        several=several,
        compared=side_by_side(subjects, examined, each_costs) if several else None,
        charts=compared_charts(learned, {each.name: metric_of(each.journal.settings) for each in subjects}) if several else (),
        speed_notes=tuple(speed_notes),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        versions=", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        cpu=machine["cpu"],
        style=Markup(templates.get_template("style.css").render()),  # ours, as the script is
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )

"""A bar with the time left for anything a person waits for; silent where the output is not a terminal, so that a log stays a log."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
# of several processes one speaks
console = Console(stderr=True, markup=False, emoji=False, quiet=os.environ.get("RANK", "0") != "0")


@contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[[str], None]]:
    """Yields `advance(note)`: one step done; the note stands behind the bar. The total is None where it is not known."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task(what, total=total, note="")

        def advance(note: str) -> None:
            bar.update(line, advance=1, note=note)

        yield advance


def tracked(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items, with a bar."""
    with progress(total, what) as advance:
        for item in items:
            yield item
            advance("")

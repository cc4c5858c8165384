"""zoo report: one HTML page about a run, or about several side by side."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ..build import write_report
from ..train.config import DEVICES
from .app import Debug, console, verb


@verb("report")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Directories that zoo train made, or exported folders.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="By default report.html in the run; of several runs, here.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    data: Annotated[str | None, typer.Option(help="Evaluate on other data; each run's own by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at a time.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read rows.")] = 0,
    device: Annotated[str, typer.Option(help=", ".join(DEVICES))] = "auto",
    debug: Debug = False,
) -> None:
    """A page to look at: curves, mistakes, retrieval, attention, size, speed.

    One file with everything in it, to read offline, print or mail. Each run is evaluated once.

    zoo report runs/digits --open
    zoo report runs/cbam runs/se runs/half --out compared.html
    """
    path = write_report(runs, out, data=data, batch_size=batch_size, workers=workers, device=device)
    console.print(f"the report is in {path}", highlight=False, soft_wrap=True)
    if open_:
        webbrowser.open(path.resolve().as_uri())

"""The application that the verbs add themselves to, and what becomes of an error."""

import os
import sys
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from registry import UnknownName

from ..train import Stopped
from ..train.engine import StoppedElsewhere
from .help import Verb, Verbs

app = typer.Typer(
    name="zoo",
    cls=Verbs,
    help="""timm, with the attention you choose: EfficientNets with any attention gate, trained, searched, explained, made small.

    zoo demo
    zoo train effnet_cbam_b0 --data my_folder --epochs 5 --out runs/mine
    zoo train image=effnet_cbam_b0 text=transformer --data captions.csv --out runs/joint
    zoo report runs/mine runs/joint
    """,
    epilog="zoo VERB --help says the rest of a verb.",
    subcommand_metavar="VERB ...",
    add_completion=False,  # zoo completion writes one that does not start Python at every key
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
verb = partial(app.command, cls=Verb)
console = Console(markup=False, emoji=False)  # names of files and classes are shown as they are

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

MISTAKES = (ValueError, UnknownName, OSError, ImportError, FloatingPointError, StoppedElsewhere)


def _in_one_line(error: Exception) -> str:
    text = str(error)
    if "Original Traceback" in text:  # torch's report of an error in a worker, which ends in "ValueError: " and what was said there
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


def run(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code: 0, 2 for a user's mistake, 1 for ours, 130 and 143 for Ctrl-C and SIGTERM."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    try:
        app(args=given, prog_name="zoo")
        return 0
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except Stopped as stop:
        print(f"zoo: {stop}", file=sys.stderr)
        return 128 + stop.signal
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of a pipe has left
        return 0
    except Exception as error:
        if debug:
            raise
        text = _in_one_line(error)
        if isinstance(error, MISTAKES):
            print(f"zoo: {text}", file=sys.stderr)
            return 2
        print(f"zoo: this should not have happened: {type(error).__name__}: {text} (--debug shows where)", file=sys.stderr)
        return 1


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table; numbers to the right."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], (int, float)) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,.1f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console.print(table)


def main() -> None:
    """What the console script calls."""
    sys.exit(run())

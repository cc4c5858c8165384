"""Run directories to the page about them: `zoo report`."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..deploy.network_speed import Candidate, bench_networks
from ..files import write_whole
from ..report import Subject, examine, page, read_journal
from ..train.engine import Engine
from .candidate import open_candidate
from .run import load_run

_ROUNDS = 7
_PROBLEMS = (ValueError, OSError, ImportError, RuntimeError, LookupError)  # of files, data and runtimes of any kind


def _names(folders: Sequence[Path]) -> list[str]:
    """Of every folder as few of its last parts as tell it from the others."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        named = [os.path.join(*each[-count:]) for each in parts]
        if len(set(named)) == len(named):
            return named
    raise ValueError("a run is given twice")


def _open(name: str, folder: Path, data: str | None) -> Subject:
    """All of a run that can be had, with a line on whatever cannot."""
    journal, notes = read_journal(folder), []
    named = str(data or journal.settings.get("data") or "")
    try:
        run = load_run(folder)
    except _PROBLEMS as error:
        return Subject(name, journal, notes=(f"The network does not load, so nothing could be measured: {error}",), data=named)
    rows, candidate = None, None
    try:
        rows = run.open_data(data).eval
    except _PROBLEMS as error:
        notes.append(f"Its data are not at hand, so nothing could be evaluated: {error}")
    else:
        if not len(rows):
            rows, told = None, f"{named} has no rows to evaluate on."
            notes.append(told)
    try:
        candidate = _renamed(open_candidate(str(folder)), name)
    except _PROBLEMS as error:
        notes.append(f"Its speed could not be measured: {error}")
    return Subject(name, journal, run.task, named, rows, candidate, run.broken, tuple(notes))


def _renamed(candidate: Candidate, name: str) -> Candidate:
    return Candidate(**{**vars(candidate), "name": name})


def write_report(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    data: str | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    device: str = "auto",
) -> Path:
    """Write one HTML page about some runs, side by side where there are several: what was trained and how, curves, mistakes, retrieval,
    attention, size and speed. Each run is evaluated once. What cannot be had, such as data that has moved, is said on the page.

    Args:
        runs: directories that `zoo train` made, or exported folders.
        out: the file; `report.html` in the run's directory by default, of several runs in the current one.
        data: the data string to evaluate all of them on; each run's own by default.
        batch_size: rows at a time; by default the task's own.
        workers: processes that read rows.
        device: to evaluate on. Speed is measured on the CPU, with one thread.

    Returns:
        Where the page is.

    Raises:
        FileNotFoundError, ValueError: a directory is none, or is no run; a run is given twice; or `out` is no .html file.
        CannotWrite: the page cannot be written.
    """
    folders = [Path(run) for run in runs]
    if not folders:
        raise ValueError("report: no run; expected at least one directory that zoo train made")
    path = Path(out) if out is not None else (folders[0] if len(folders) == 1 else Path()) / "report.html"
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise ValueError(f"out: expected a file that ends in .html, got {path}")
    for folder in folders:
        read_journal(folder)  # raises before anything is done
    subjects = [_open(name, folder, data) for name, folder in zip(_names(folders), folders, strict=True)]
    engine = Engine(device)
    examined = [examine(subject, engine, batch_size=batch_size, workers=workers) for subject in subjects]
    candidates = [subject.candidate for subject in subjects if subject.candidate is not None]
    cells, notes = {}, []
    if candidates:
        measured = bench_networks(candidates, (1,), runtimes=("eager",), rounds=_ROUNDS, keep_memory=False)
        cells = {cell.network: cell for cell in measured.cells}
        notes = [*measured.notes, *(f"{each.network or each.runtime} was not measured: {each.reason}" for each in measured.left_out)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(subjects, examined, cells, speed_notes=notes).encode("utf-8", "replace"))
    return path

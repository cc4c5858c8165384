"""The files of a run directory: whether one may be written, and its log."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..files import CannotWrite, write_whole
from . import checkpoint
from .config import TrainConfig
from .lock import alone

_FILES = ("config.json", "model.safetensors", "metrics.jsonl", "broken.jsonl", "skipped.jsonl", "joint.safetensors", "card.json", "card.md")


def is_run(folder: Path) -> bool:
    """Whether a directory holds what `fit` writes."""
    if checkpoint.checkpoints(folder / "checkpoints"):
        return True
    try:
        return "zoo" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False


def may_write(out: Path, config: TrainConfig) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; expected a directory")
    if config.resume and not is_run(out):
        raise ValueError(f"resume: {out} holds no run; leave resume out to start one")
    if is_run(out) and not config.resume and not config.overwrite:
        raise ValueError(f"out: {out} already holds a run; resume it (--resume), replace it (--overwrite), or choose another directory")
    ours = [*_FILES, *(path.name for pattern in ("tokenizer.*.json", "tower.*") for path in out.glob(pattern))]
    if not is_run(out) and (held := [file for file in ours if (out / file).exists()]):
        raise ValueError(f"out: {out} holds {', '.join(held)}, but no run; choose another directory, so that nothing is lost")


def may_make(out: Path, run: Path, *, resume: bool, overwrite: bool, finetunes: bool) -> None:
    """Whether a verb may make a run out of another one in a directory.

    Raises:
        ValueError: it is the run itself, holds something else, or resuming is asked for where nothing was being trained.
    """
    ours = is_run(out) or is_run(out / "steps" / "1")  # of a pruning that has not come to its last step
    if out.resolve() == run.resolve():
        raise ValueError(f"out: {out} is the run itself; choose another directory, so that nothing is lost")
    if resume and not finetunes:
        raise ValueError("resume: it is a fine-tuning that goes on; give --finetune-epochs as before")
    if resume and overwrite:
        raise ValueError("resume and overwrite contradict each other: give one")
    if resume and not ours:
        raise ValueError(f"resume: {out} holds no run; leave resume out to start one")
    if ours and not overwrite and not resume:
        onward = "resume it (--resume), " if finetunes else ""
        raise ValueError(f"out: {out} already holds a run; {onward}replace it (--overwrite), or choose another directory")
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: {out} is not empty and holds no run; choose another directory, so that nothing is lost")


def _exported(out: Path) -> list[str]:
    """The files that `zoo export` or `zoo quantize` wrote for a runtime, by what config.json says."""
    try:
        runtime = json.loads((out / "config.json").read_text()).get("runtime") or {}
    except (OSError, ValueError):
        return []
    names = [name for name in runtime.get("files", ()) if Path(name).name == name]  # nothing outside the directory
    return [*names, "README.md"] if names else []


def claim(out: Path, *, overwrite: bool) -> None:
    """Make the run directory ready; nothing goes that is not of a run, and nothing at all unless it was asked for."""
    if overwrite and is_run(out):
        checkpoint.remove(out / "checkpoints")
        for file in (*_exported(out), *_FILES, "report.html", *(path.name for path in out.glob("tokenizer.*.json"))):
            (out / file).unlink(missing_ok=True)
        for folder in (*out.glob("tower.*"), *(out / name for name in ("index", "logs", "best", "steps", ".writing-best", ".old-best"))):
            shutil.rmtree(folder, ignore_errors=True)
    if is_run(out):
        for half in (*out.glob(".writing-*"), *out.glob("tower.*/.writing-*")):  # left by a kill
            shutil.rmtree(half) if half.is_dir() else half.unlink()
    out.mkdir(parents=True, exist_ok=True)


@contextmanager
def _onward(out: Path) -> Iterator[None]:
    """What cannot be written ends the training with word of how to go on."""
    try:
        yield
    except CannotWrite as error:
        whole = checkpoint.checkpoints(out / "checkpoints")
        onward = f"{whole[-1]} is whole: make room, then go on from it with --resume" if whole else "make room, then start again"
        raise OSError(f"{error}; {onward}") from error


class Folder:
    """The files of a run, and the right to write them, which is held until `held` is closed.

    Raises:
        ValueError: another training writes into the directory.
    """

    def __init__(self, out: Path | None, main: bool, held: ExitStack):
        self.out = out if main else None
        if self.out is not None and not self.out.is_file():
            held.enter_context(alone(self.out))
            held.enter_context(_onward(self.out))

    @property
    def checkpoints(self) -> Path | None:
        return self.out / "checkpoints" if self.out else None

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path | None]:
        """A directory to write; afterwards it takes the place of the one of that name, whole. None where nothing is written."""
        if self.out is None:
            yield None
            return
        work, final, old = self.out / f".writing-{name}", self.out / name, self.out / f".old-{name}"
        for path in (work, old):
            shutil.rmtree(path, ignore_errors=True)
        work.mkdir()
        yield work
        if final.exists():
            final.replace(old)
        work.replace(final)
        shutil.rmtree(old, ignore_errors=True)

    def log(self, line: dict[str, Any]) -> None:
        if self.out:
            numbers = {key: value for key, value in line.items() if not isinstance(value, list)}  # no matrix every epoch
            path = self.out / "metrics.jsonl"
            before = path.stat().st_size if path.exists() else 0
            try:
                with open(path, "ab") as file:
                    file.write(json.dumps(numbers).encode() + b"\n")
            except OSError as error:
                with suppress(OSError):
                    os.truncate(path, before)  # no half line
                raise CannotWrite(path, error, len(json.dumps(numbers))) from error

    def log_skip(self, line: dict[str, Any]) -> None:
        """A step that was left out; its `step` counts from 0."""
        if self.out:
            with (self.out / "skipped.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def keep_log_until(self, step: int) -> list[dict[str, Any]]:
        """Lines that were written after the checkpoint describe steps that are now taken again."""
        if self.out is None:
            return []
        _keep(self.out / "skipped.jsonl", step - 1)
        return _keep(self.out / "metrics.jsonl", step)


def _keep(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines up to a step; the file holds no others afterwards."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break  # cut off by a kill
        if line["step"] <= step:
            lines.append(line)
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return lines

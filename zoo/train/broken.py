"""Rows whose picture can not be read: they stop the training, are left out, or have another row stand in.

    raise      stop, with the file's name and the row
    skip       leave the row out of its batch; to a joint embedding it is a row without that picture, as others are by nature
    replace    another row stands in, drawn by (seed, epoch, index); an evaluation leaves the row out instead

A worker only notes what it met. The process that takes the batch counts it, and names each file once: on the console, and in `broken.jsonl`
of the run directory, which a resumed run reads first.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..datasets.picture import BrokenPicture
from ..progress import console
from .engine import Engine

EVALUATED = {"raise": "raise", "skip": "skip", "replace": "skip"}
"""What an evaluation does: it measures no row twice."""
LEFT_OUT = "left out of the evaluation"
_DONE = {"skip": "skipped", "replace": "another row stands in"}


@dataclass(frozen=True)
class Broken:
    """A picture that could not be read, and the row that wanted it."""

    row: int
    path: str
    why: str
    where: str = ""

    @classmethod
    def of(cls, row: int, error: BrokenPicture) -> "Broken":
        return cls(row, error.path, error.why, error.where)

    def error(self) -> BrokenPicture:
        return BrokenPicture(self.path, f"{self.why} (row {self.row}; broken=skip leaves such rows out)", self.where)


class BrokenFiles:
    """What was found broken: each file is named once, and the rows of an epoch are counted.

    Args:
        policy: "raise", "skip" or "replace".
        file: where the list is kept.
        engine: of several processes the first one speaks and writes.
    """

    def __init__(self, policy: str = "skip", file: Path | None = None, engine: Engine | None = None):
        self.policy, self.file, self.engine = policy, file, engine
        self.rows = 0
        self._waiting: list[Broken] = []
        self._known: set[str] | None = None

    def note(self, found: Sequence[Broken]) -> None:
        """What this process met in a batch; with several processes it waits for `gather`."""
        self._waiting += found
        if self.engine is None or self.engine.world == 1:
            self.gather()

    def gather(self) -> None:
        """What all processes have noted is counted and told; all of them must call it."""
        if self.policy == "raise":
            return
        found = self._waiting if self.engine is None else self.engine.every(self._waiting)
        self._waiting = []
        self.rows += len({each.row for each in found})
        self.tell(found)

    def tell(self, found: Sequence[Broken], done: str | None = None) -> None:
        """Name the files that have not been named before, in the first process."""
        if not found or (self.engine is not None and not self.engine.is_main):
            return
        if self._known is None:
            self._known = self._read()
        lines = []
        for each in found:
            if each.path not in self._known:
                self._known.add(each.path)
                lines.append(json.dumps({"path": each.path, "why": each.why}) + "\n")
                told = f"broken: {each.path}: {each.why} (row {each.row}, {done or _DONE[self.policy]})"
                console.print(told, soft_wrap=True, highlight=False)
        if lines and self.file is not None:
            with self.file.open("a") as file:
                file.write("".join(lines))

    def _read(self) -> set[str]:
        """The files that the list holds; a line that a kill has cut off is taken away."""
        if self.file is None or not self.file.exists():
            return set()
        lines = self.file.read_text().splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            writing = self.file.with_name(f".writing-{self.file.name}")
            writing.write_text("".join(lines := lines[:-1]))
            writing.replace(self.file)
        return {json.loads(line)["path"] for line in lines}

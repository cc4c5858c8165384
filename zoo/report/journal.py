"""What a run's files say of it, without its network: config.json, metrics.jsonl, its card, its checkpoints.

Nothing here raises because of what stands in a file: a line that was cut off by a kill is left out and said so, and of a training that is
still going on there is what it has written until now.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Numbers = dict[str, float]
"""Name -> value of one epoch, nested ones by both names: "image->text R@1". A value that is none is NaN."""


@dataclass(frozen=True)
class Journal:
    """A run directory, read.

    Args:
        path: where it is.
        config: its config.json.
        epochs: a line of metrics.jsonl each.
        card: its card.json, of a network that was made from another.
        versions: of the packages that trained it, as its last checkpoint has them.
        training: a training holds the directory right now, or was killed in it.
        counts: name of a file of lines -> how many it has: "skipped" steps, "broken" pictures.
        notes: what could not be read.
    """

    path: Path
    config: Mapping[str, Any]
    epochs: tuple[Numbers, ...]
    card: Mapping[str, Any] | None
    versions: Mapping[str, str]
    training: bool
    counts: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it was trained."""
        return self.config["zoo"]

    @property
    def runtime(self) -> Mapping[str, Any] | None:
        """Of an exported folder, what its config.json says of its files."""
        return self.config.get("runtime")

    @property
    def seconds(self) -> float | None:
        """That all epochs took together, evaluation included."""
        taken = [each["seconds"] for each in self.epochs if math.isfinite(each.get("seconds", math.nan))]
        return sum(taken) if taken else None

    @property
    def done(self) -> int:
        """The last epoch that is written down."""
        return int(self.epochs[-1]["epoch"]) if self.epochs else 0

    @property
    def planned(self) -> int | None:
        """Epochs that were asked for; None: it was not trained here."""
        asked, elsewhere = self.settings.get("epochs"), self.runtime is not None or (not self.epochs and self.card is not None)
        return asked if isinstance(asked, int) and not elsewhere else None

    @property
    def made_into(self) -> Mapping[str, Any]:
        """What its card says of the network itself; nothing without one."""
        card = self.card or {}
        return next((card[name] for name in ("after", "student") if isinstance(card.get(name), Mapping)), {})


def read_journal(path: Path) -> Journal:
    """Read what a run directory, or an exported folder, says of itself.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is neither.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"run {path}: no such directory")
    try:
        config = json.loads((path / "config.json").read_text())
        config["zoo"]["task"]
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(f"{path} is not a run: expected a config.json written by `zoo train`") from None
    epochs, notes = _epochs(path / "metrics.jsonl")
    return Journal(
        path,
        config,
        epochs,
        card=_mapping(path / "card.json"),
        versions=_versions(path / "checkpoints"),
        training=(path / ".lock").exists(),
        counts={name: count for name in ("skipped", "broken") if (count := _lines(path / f"{name}.jsonl"))},
        notes=notes,
    )


def _epochs(path: Path) -> tuple[tuple[Numbers, ...], tuple[str, ...]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return (), ()
    found, wrong = [], []
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            found.append({**_numbers(line), "epoch": int(line["epoch"])})
        except (ValueError, LookupError, TypeError, AttributeError):
            wrong.append(str(number))
    told = f"metrics.jsonl: line {', '.join(wrong[:5])}{', ...' if wrong[5:] else ''} cannot be read and is left out" if wrong else ""
    return tuple(found), (told,) if told else ()


def _numbers(line: Mapping[str, Any], before: str = "") -> Numbers:
    found: Numbers = {}
    for key, value in line.items():
        if isinstance(value, Mapping):
            if key not in ("chance", "geometry"):
                found |= _numbers(value, f"{before}{key} ")
        elif isinstance(value, int | float):
            found[before + key] = float(value)
        elif value is None:
            found[before + key] = math.nan
    return found


def _mapping(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _versions(checkpoints: Path) -> dict[str, str]:
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        versions = (_mapping(folder / "manifest.json") or {}).get("versions")
        if isinstance(versions, dict):
            return {str(name): str(version) for name, version in versions.items()}
    return {}


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0

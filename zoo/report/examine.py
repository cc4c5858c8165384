"""One evaluation pass over a run, and all that a page shows of it; what cannot be had is left out, with a line that says why."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..datasets import Split
from ..deploy.exported import RuntimeNetwork
from ..deploy.network_speed import Candidate
from ..train import Align, Classify, Task, evaluate
from ..train.engine import Engine
from .confusion import Confusion, confusion
from .grad_cam import grad_cam
from .journal import Journal
from .looks import Look, looks
from .mistakes import Guess, Listener
from .retrieved import Embeddings, Retrieved, retrieved, words_of

PICTURES = 4  # that attention is shown on
UNSURE = 6


@dataclass(frozen=True)
class Subject:
    """A run that a page is about.

    Args:
        name: what the page calls it; no two of a page are called the same.
        journal: its files.
        task: what was trained, with its weights; None where it does not load.
        data: what it is evaluated on is called.
        rows: to evaluate on; None where the data are not at hand.
        candidate: for measuring its speed.
        broken: what becomes of pictures that cannot be read.
        notes: why one of these is missing.
    """

    name: str
    journal: Journal
    task: Task | None = None
    data: str = ""
    rows: Split | None = None
    candidate: Candidate | None = None
    broken: str = "raise"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """What one evaluation of a run has shown; empty where there was none.

    Args:
        metrics: as `zoo eval` has them.
        mistakes: the surest first; `unsure`: right, the least sure first, where there are no mistakes.
        looks: where it looks, with `look_notes` on what is left out.
        notes: why something is missing.
    """

    metrics: dict[str, Any] | None = None
    confusion: Confusion | None = None
    wrong: int = 0
    mistakes: tuple[Guess, ...] = ()
    unsure: tuple[Guess, ...] = ()
    retrieved: tuple[Retrieved, ...] = ()
    looks: tuple[Look, ...] = ()
    look_notes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def examine(subject: Subject, engine: Engine, *, batch_size: int | None = None, workers: int = 0) -> Examined:
    """Evaluate a run once and look at what it did; never raises because of the run or its data."""
    task, split = subject.task, subject.rows
    if task is None or split is None:
        return Examined()
    heard: Listener | Embeddings = Listener(task.multi_label) if isinstance(task, Classify) else Embeddings()
    try:
        how: dict[str, Any] = {"engine": engine, "batch_size": batch_size, "workers": workers, "broken": subject.broken}
        metrics = evaluate(task, split, what=f"evaluate {subject.name}", listen=heard, **how)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        return Examined(notes=(f"It could not be evaluated: {error}",))
    if isinstance(task, Classify) and isinstance(heard, Listener):
        return _classifier(subject, task, heard, split, metrics)
    assert isinstance(task, Align) and isinstance(heard, Embeddings)
    seen, notes = _of_joint(task, heard, split)
    return Examined(metrics, retrieved=tuple(retrieved(task, heard, split)), looks=tuple(seen), look_notes=tuple(notes))


def _classifier(subject: Subject, task: Classify, heard: Listener, split: Split, metrics: dict[str, Any]) -> Examined:
    wrong, kept = heard.chosen(True), heard.kept
    mistakes = heard.guesses(wrong, split, task.classes)
    unsure = [] if mistakes else heard.guesses(heard.chosen(False, UNSURE, surest=False), split, task.classes)
    of_class: dict[str, int] = {}  # the surest right picture of each class
    for place in heard.chosen(False, len(split)).tolist():
        of_class.setdefault(str(kept["label"][place].tolist()), place)
    some = [*wrong.tolist()[: PICTURES // 2], *of_class.values()][:PICTURES]
    guesses = heard.guesses(wrong.new_tensor(some), split, task.classes)
    told = [each.true if each.true == each.predicted else f"{each.true} → {each.predicted}" for each in guesses]
    seen, notes = _looks(task.trainable_module, task, split, [each.row for each in guesses], told, partial(grad_cam, task.trainable_module))
    return Examined(
        metrics,
        confusion=confusion(metrics["confusion"], task.classes) if "confusion" in metrics else None,
        wrong=int(kept["wrong"].sum()),
        mistakes=tuple(mistakes),
        unsure=tuple(unsure),
        looks=tuple(seen),
        look_notes=tuple(notes),
    )


def _of_joint(task: Align, heard: Embeddings, split: Split) -> tuple[list[Look], list[str]]:
    """Where the image tower looks in the first pictures, and what of them speaks for their own text."""
    if "image" not in heard:
        return [], []
    rows: list[int] = heard.of("image", split)[1][:PICTURES].tolist()
    texts: dict[int, Tensor] = {}
    if "text" in heard:
        embedded, of = heard.of("text", split)
        texts = dict(zip(of.tolist(), embedded, strict=True))
    towards = [texts[row] for row in rows if row in texts]

    def explain(x: Tensor) -> np.ndarray:
        return np.concatenate([grad_cam(task.joint, each[None], towards=text) for each, text in zip(x, towards, strict=True)])

    told = [words_of(task, split, row, "text") for row in rows]
    return _looks(task.joint.towers["image"], task, split, rows, told, explain if len(towards) == len(rows) else None)


def _looks(
    network: nn.Module, task: Task, split: Split, rows: list[int], told: list[str], explain: Callable[[Tensor], np.ndarray] | None
) -> tuple[list[Look], list[str]]:
    if isinstance(network, RuntimeNetwork):
        return [], ["A runtime's file shows only what goes in and what comes out: for maps report on the run that it came from."]
    if not rows:
        return [], []
    name = "Grad-CAM, towards its text" if isinstance(task, Align) else "Grad-CAM"
    return looks(network, task.of_pictures(), split, rows, told, explained=(name, explain) if explain else None)

"""What was trained and how, in words: from a run's settings, its files and its network."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..backbones.slots import attention_slots
from ..evaluate import warning
from ..train import Align, Classify
from .examine import Examined, Subject
from .journal import Journal

_COUNTED = {"skipped": "steps were left out because their numbers were none", "broken": "pictures could not be read in training"}


def metric_of(settings: Mapping[str, Any]) -> str:
    """The number that stands for all, of a run's task."""
    return "mAP" if settings.get("multi_label") else Align.metric if settings.get("task") == Align.kind else Classify.metric


def worth(subject: Subject, examined: Examined) -> float | None:
    """This number in percent, as it was measured now, or else by its card, or by the last epoch that has it."""
    metric = metric_of(subject.journal.settings)
    said = [each.get(metric) for each in reversed(subject.journal.epochs)]
    for value in ((examined.metrics or {}).get(metric), subject.journal.made_into.get(metric), *said):
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return None


def model_of(settings: Mapping[str, Any]) -> str:
    """The name of the model, or the towers as they are given to `zoo train`."""
    towers = settings.get("towers")
    if isinstance(towers, Mapping):
        return " ".join(f"{name}={tower}" for name, tower in towers.items())
    return str(settings.get("model", "a network without a name"))


def task_of(journal: Journal) -> str:
    settings = journal.settings
    if settings.get("task") == Align.kind:
        names = list(settings.get("towers", {}))
        return f"a joint embedding of {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "a joint embedding"
    classes = f"{len(journal.config.get('label_names') or []):,} classes"
    return f"a classifier with any number of {classes} a picture" if settings.get("multi_label") else f"a classifier of {classes}"


def attention_of(subject: Subject) -> str:
    """Which gates sit in how many slots; nothing of a network that was not loaded."""
    if subject.task is None:
        return ""
    counts = Counter(name for _, name, _ in attention_slots(subject.task.trainable_module))
    return ", ".join(f"{name} in {count} slot{'' if count == 1 else 's'}" for name, count in counts.items())


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def summary(journal: Journal) -> str:
    """The run in a line or two."""
    settings, what = journal.settings, f"{model_of(journal.settings)}: {task_of(journal)}."
    if journal.runtime is not None:
        verb = "Quantized" if "quantized" in settings else "Exported"
        return f"{what} {verb} for {str(journal.runtime['name']).replace('_', '-')}."
    made = "Pruned. " if "pruned" in settings else "Its attention was swapped. " if "swapped" in settings else ""
    if journal.planned and journal.done < journal.planned:
        return f"{what} {made}{f'Trained for {journal.done} of {journal.planned} epochs.' if journal.done else 'No epoch has ended yet.'}"
    return f"{what} {made}{f'Trained for {journal.done} epochs.' if journal.done else 'Not trained here.'}"


def facts(subject: Subject) -> tuple[tuple[str, str], ...]:
    """(name, value) of all that is written down of it."""
    journal, settings = subject.journal, subject.journal.settings
    found = {
        "Model": model_of(settings),
        "Attention": attention_of(subject),
        "Task": task_of(journal),
        "Data": settings.get("data") or "not written down",
        "Evaluated on": subject.data if subject.data != settings.get("data") else "",
        "Rows": _rows(subject),
        "Pictures": _pictures(settings),
        "Starts from": "timm's weights" if settings.get("pretrained") else settings.get("init") or "random numbers",
        "Teacher": settings.get("teacher"),
        "Loss": _said(settings.get("loss")),
        "Epochs": f"{journal.done} of {journal.planned}" if journal.done and journal.planned else "",
        "Batch": _batch(settings),
        "Optimizer": settings.get("opt"),
        "Weight decay": settings.get("weight_decay"),
        "Learning rate": _rate(settings),
        "Precision": settings.get("precision"),
        "Processes": settings.get("processes") if settings.get("processes") != 1 else "",
        "Seed": settings.get("seed"),
        "Training took": duration(journal.seconds) if journal.seconds else "",
        "Trained with": _said(journal.versions, " "),
        "Runs in": (journal.runtime or {}).get("library"),
    }
    return tuple((name, str(value)) for name, value in found.items() if value not in (None, ""))


def _said(value: Any, between: str = ": ") -> str:
    return ", ".join(f"{name}{between}{each}" for name, each in value.items()) if isinstance(value, Mapping) else str(value or "")


def _rows(subject: Subject) -> str:
    learned = subject.journal.settings.get("rows")
    both = [f"{learned:,} to learn from" if learned else "", f"{len(subject.rows):,} to evaluate on" if subject.rows is not None else ""]
    return ", ".join(filter(None, both))


def _pictures(settings: Mapping[str, Any]) -> str:
    first: Mapping[str, Any] = next(iter((settings.get("preprocess") or {}).values()), {})
    size = settings.get("img_size") or first.get("input_size", [None])[-1]
    return f"{size} px, augmentation: {settings.get('augment') or first.get('augment')}" if size else ""


def _batch(settings: Mapping[str, Any]) -> str:
    times = f" × {settings['accumulate']}" if settings.get("accumulate", 1) > 1 else ""
    return f"{settings['batch_size']}{times}" if settings.get("batch_size") else ""


def _rate(settings: Mapping[str, Any]) -> str:
    warm = f", warm-up {settings['warmup']:.0%}" if settings.get("warmup") else ""
    return f"{settings['lr']:g}, {settings.get('sched')}{warm}" if settings.get("lr") else ""


def notes(subject: Subject, examined: Examined) -> tuple[str, ...]:
    """What a reader should know before the numbers: what is missing, unfinished or left out."""
    journal = subject.journal
    found = [*subject.notes, *examined.notes, *journal.notes]
    if journal.planned and journal.done < journal.planned:
        why = "a training writes into it right now, or was killed" if journal.training else "it was stopped"
        found.append(f"{journal.done} of {journal.planned} epochs are there: {why}. Its numbers are those of this moment.")
    found += [f"{count:,} {_COUNTED[name]} ({name}.jsonl)." for name, count in journal.counts.items()]
    if lost := (examined.metrics or {}).get("eval_broken"):
        found.append(f"{lost:,} rows of the evaluation could not be read, and are left out.")
    if nothing := (examined.metrics or {}).get("without_positives"):
        found.append(f"{len(nothing):,} classes have no row to evaluate on, and are left out of the means.")
    for pair, shape in (examined.metrics or {}).get("geometry", {}).items():
        if shape and (told := warning(shape)):
            found.append(f"{pair}: {told}.")
    return tuple(found)

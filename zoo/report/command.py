"""The command line that would make a run again, from what the run says of how it was made."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ..train import Align, Classify, TrainConfig
from .journal import Journal

_DEFAULTS = {each.name: each.default for each in fields(TrainConfig)}
_ALWAYS = ("epochs", "seed")  # what a person looks for
_RECIPE = (  # settings that are options of `zoo train` by the same name
    *("epochs", "batch_size", "accumulate", "lr", "layer_decay", "opt", "sched", "warmup", "weight_decay", "clip_grad", "ema", "hand_over"),
    *("unfreeze_at", "sample", "patience", "sync_bn", "precision", "broken", "compile", "seed"),
)
_FITTING = ("smoothing", "mixup", "cutmix", "drop_path", "teacher", "distill_alpha", "distill_temperature", "pretrained", "init")
_USUAL = {
    **{"smoothing": 0.1, "mixup": 0.0, "cutmix": 0.0, "drop_path": 0.05, "distill_alpha": 0.5, "distill_temperature": 2.0},
    **{"head": "linear", "embed_dim": 256, "loss": "clip", "pretrained": False},
}


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _words(option: str, value: Any) -> list[str]:
    name = f"--{option.replace('_', '-')}"
    return [name] if value is True else [name, _written(value)]


def _pairs(values: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={_written(value)}" for name, value in values.items())


def _recipe(settings: Mapping[str, Any]) -> Iterator[list[str]]:
    kind: Any = Align if settings["task"] == Align.kind else Classify
    usual = {**_DEFAULTS, "batch_size": kind.default_batch_size, "lr": kind.default_lr}
    for name in _RECIPE:
        value = settings.get(name)
        if value is not None and value is not False and (name in _ALWAYS or value != usual[name]):
            yield _words(name, value)
    rates = settings.get("part_lr") or {}
    if rates:
        yield _words("tower_lr", _pairs({name.removeprefix("towers."): rate for name, rate in rates.items()}))


def _fitting(settings: Mapping[str, Any]) -> Iterator[list[str]]:
    """Of the model and its pictures."""
    for name in _FITTING:
        value = settings.get(name)
        if value is not None and value is not False and value != _USUAL.get(name):
            yield _words(name, value)


def _classifier(settings: Mapping[str, Any]) -> Iterator[list[str]]:
    yield [str(settings["model"])]
    yield _words("data", settings.get("data", "DATA"))
    yield _words("img_size", settings["img_size"])
    yield _words("augment", settings["augment"])
    frozen = [*(["bn"] if settings.get("freeze_bn") else []), *(settings.get("freeze") or [])]
    if frozen:
        yield _words("freeze", ",".join(frozen))


def _joint(settings: Mapping[str, Any]) -> Iterator[list[str]]:
    towers, pairs = settings["towers"], ["-".join(pair) for pair in settings["pairs"]]
    yield [f"{name}={tower}" for name, tower in towers.items()]
    yield _words("data", settings.get("data", "DATA"))
    pictures = next(iter(settings.get("preprocess", {}).values()), None)
    if pictures:
        yield _words("img_size", pictures["input_size"][-1])
        yield _words("augment", pictures["augment"])
    for name in ("head", "embed_dim", "loss"):
        value = settings[name]
        if value != _USUAL[name]:
            yield _words(name, _pairs(value) if isinstance(value, Mapping) else value)
    first = next(iter(towers))
    if pairs != [f"{first}-{other}" for other in towers if other != first]:
        yield _words("pairs", ",".join(pairs))
    if any(weight != 1 for weight in settings["weights"].values()):
        yield _words("weights", _pairs(settings["weights"]))
    frozen = [*(["bn"] if settings.get("freeze_bn") else []), *settings["frozen"]]
    if frozen:
        yield _words("freeze", ",".join(frozen))


def _made(journal: Journal) -> Iterator[list[str]]:
    """Of a network that was made from another; nothing where it was not."""
    settings, card = journal.settings, journal.card or {}
    made = card.get("made", {}) if isinstance(card.get("made"), Mapping) else {}
    if "quantized" in settings and journal.runtime is not None:
        yield ["quantize", str(made.get("from", settings["quantized"]["from"]))]
        yield _words("to", settings["quantized"]["to"])
        yield from (_words(name, made[name]) for name in ("edge", "qat_epochs", "calibration_rows") if made.get(name))
    elif journal.runtime is not None:
        yield ["export", str(journal.runtime.get("run", "RUN"))]
        yield _words("to", str(journal.runtime["name"]).replace("_", "-"))
    elif "pruned" in settings:
        its = settings["pruned"]
        yield ["prune", its["from"]]
        yield _words("macs", its["macs"])
        yield _words("steps", its["steps"])
        if not journal.epochs or "epochs" in made:
            yield _words("finetune_epochs", made["epochs"] if journal.epochs else 0)
        if not its["distilled"]:
            yield ["--no-distill"]
    elif "swapped" in settings:
        its = settings["swapped"]
        yield ["swap", its["from"], its["attention"]]
        yield _words("keep", its["keep"])
        if journal.epochs:
            yield _words("finetune_epochs", settings["epochs"])


def command(journal: Journal) -> str:
    """One line for a shell; where the run does not say everything, as much as it says."""
    settings = journal.settings
    out = _words("out", str(journal.path))
    try:
        if made := list(_made(journal)):
            return shlex.join(["zoo", *(word for words in [*made, out] for word in words)])
        parts = list((_joint if settings["task"] == Align.kind else _classifier)(settings))
        parts += [*_fitting(settings), *_recipe(settings), out]
    except (LookupError, TypeError, AttributeError, ValueError):  # written by another version, or by hand
        return ""
    processes = settings.get("processes", 1)
    start = ["torchrun", "--nproc_per_node", str(processes), "-m", "zoo"] if isinstance(processes, int) and processes > 1 else ["zoo"]
    return shlex.join([*start, "train", *(word for words in parts for word in words)])


def reservations(journal: Journal) -> tuple[str, ...]:
    """What the command does not say."""
    settings = journal.settings
    found = []
    if settings.get("model_options"):
        found.append(f"It was made from Python with model_options={settings['model_options']!r}, for which there is no option.")
    if "swapped" in settings:
        found.append("Which slots were swapped is not written down; --stages or --where may have been given.")
    if "pruned" in settings and journal.epochs and "epochs" not in ((journal.card or {}).get("made") or {}):
        found.append("For how many epochs it recovered after each cut is not written down; give --finetune-epochs.")
    towers = settings.get("towers") if isinstance(settings.get("towers"), Mapping) else {}
    if any(str(each).startswith("<") for each in (settings.get("model", ""), *(towers or {}).values())):
        found.append("The network was given as an object, from Python.")
    return tuple(found)

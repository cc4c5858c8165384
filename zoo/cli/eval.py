"""zoo eval: what a run is worth, on its own evaluation rows or on other data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from ..build import Run, load_run, open_data
from ..datasets import Data, Split
from ..evaluate import class_embeddings, linear_probe, zero_shot
from ..evaluate.zero_shot import TEMPLATES, read_templates
from ..progress import console, tracked
from ..train import Align, Classify
from ..train import evaluate as evaluate_task
from ..train.broken import EVALUATED, LEFT_OUT, Broken, BrokenFiles
from ..train.config import BROKEN
from ..train.engine import Engine
from ..train.loader import Batch, InOrder, PreparedRows, load
from .app import Debug, Json, print_table, verb

_CELLS = 25  # a confusion matrix that still fits a terminal


def print_metrics(metrics: dict[str, Any], classes: tuple[str, ...] | None, title: str) -> None:
    """Metrics of one run as a table: accuracy and the confusion matrix, or retrieval both ways beside chance."""
    if classes is None:
        columns = ("R@1", "R@5", "R@10", "mAP")
        rows: list[list[Any]] = []
        for way, found in metrics.items():
            if "->" in way:
                rows.append([way, *(found[column] for column in columns), found["median_rank"], found["queries"]])
                rows.append(["  chance", *(found["chance"][column] for column in columns), "", ""])
        print_table(title, ["direction", *columns, "median rank", "queries"], rows)
        shapes = [(pair, name, its, found) for pair, found in metrics.get("geometry", {}).items() for name, its in found.items() if its]
        lines = [
            [f"{pair}: {name}", *(f"{value:.2f}" for value in (its["cosine"], its["uniformity"], found["alignment"], found["gap"]))]
            for pair, name, its, found in shapes
            if isinstance(its, dict)
        ]
        if lines:
            print_table("on the sphere", ["pair", "mean cosine", "uniformity", "alignment", "gap"], lines)
        return
    told = [[name, f"{value:.2f}"] for name, value in metrics.items() if not isinstance(value, list) and name != "eval_broken"]
    print_table(title, ["metric", "value"], told)
    if "AP" in metrics:
        _print_several(metrics, classes)
    elif len(classes) <= _CELLS:
        rows = [[name, *row] for name, row in zip(classes, metrics["confusion"], strict=True)]
        print_table("rows: true, columns: predicted", ["", *classes], rows)


def _print_several(metrics: dict[str, Any], classes: tuple[str, ...]) -> None:
    """Of every class its average precision, and which have none."""
    if len(classes) <= _CELLS:
        rows = [[name, "" if value is None else f"{value:.2f}"] for name, value in zip(classes, metrics["AP"], strict=True)]
        print_table("average precision", ["class", "AP"], rows)
    if left_out := metrics["without_positives"]:
        named = ", ".join(left_out[:8]) + (", ..." if len(left_out) > 8 else "")
        told = f"{len(left_out)} of {len(classes)} classes have no row here, and are left out of mAP and macro_f1: {named}"
        console.print(told, highlight=False, soft_wrap=True)


class _Labelled:
    """A row to its picture as a tensor and its label, to nothing where either is missing; a class, so that it travels to workers."""

    def __init__(self, transform: Callable):
        self.transform = transform

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"image": self.transform(row["image"]), "label": row["label"]} if {"image", "label"} <= row.keys() else {}


def _collate(rows: list[dict[str, Any]]) -> Batch:
    there = [row for row in rows if "image" in row]
    return {"image": torch.stack([row["image"] for row in there]), "label": torch.tensor([row["label"] for row in there])} if there else {}


def _labelled(opened: Run, data: str | None, broken: str) -> Data:
    """The run's data or other data, of any classes."""
    skips = broken != "raise"
    found = open_data(data, broken=skips) if data else opened.open_data(broken=skips)
    if found.classes is None:
        raise ValueError(f"{found.name} has no labels (its rows have {', '.join(found.columns)}); give --data with a label in its rows")
    return found


@torch.no_grad()
def _embed_pictures(
    task: Any,
    data: Data,
    which: str,
    embed: Callable[[torch.Tensor], torch.Tensor],
    engine: Engine,
    batch_size: int | None,
    workers: int,
    broken: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `embed` makes of every picture with a label, `[N, D]`, and the labels, `[N]`. A picture with several captions counts once."""
    split: Split = getattr(data, which)
    if not len(split):
        raise ValueError(f"{data.name}: the {which} split has no rows")
    engine.place(task)
    task.eval()
    once = split.take(np.sort(np.unique(split.pictures, return_index=True)[1]))
    plan = InOrder(len(once), batch_size or 2 * task.default_batch_size)
    rows = PreparedRows(once, _Labelled(task.of_pictures().transform(False)), 0, broken=EVALUATED[broken])
    loader = load(rows, plan, _collate, workers=workers, pin=False)
    embedded, labels = [], []
    lost: list[Broken] = []
    for batch in tracked(loader, len(plan), f"{which} pictures"):
        lost += batch.pop("broken", ())
        if batch:
            embedded.append(embed(engine.to_device(batch)["image"]).float().cpu())
            labels.append(batch["label"])
    BrokenFiles().tell(lost, LEFT_OUT)
    if not labels:
        raise ValueError(f"{data.name}: no row of the {which} split has a picture and a label (its rows have {', '.join(split.columns)})")
    return torch.cat(embedded), torch.cat(labels)


def text_embedder(task: Align, engine: Engine) -> Callable[[list[str]], torch.Tensor]:
    """Texts to `[B, D]`, by the task's text tower."""

    @torch.no_grad()
    def embed_text(texts: list[str]) -> torch.Tensor:
        prepare = task.prepare(False)
        rows = [{**prepare({"text": text}), "id": 0, "index": 0} for text in texts]
        return task.embed(engine.to_device(task.collate(rows)))["text"]

    return embed_text


def _zero_shot(opened: Run, data: str | None, templates: Path | None, engine: Engine, broken: str, **reading: Any) -> dict[str, Any]:
    task = opened.task
    if not isinstance(task, Align):
        raise ValueError(f"{opened.path} is a classifier and has no text tower; --zero-shot needs one: zoo train image=... text=...")
    if "text" not in task.columns:
        raise ValueError(f"{opened.path} embeds {', '.join(task.columns)}, not text; --zero-shot needs a text tower to read class names")
    sentences = TEMPLATES if templates is None else read_templates(templates)
    found = _labelled(opened, data, broken)
    reading["broken"] = broken

    def embed_image(image: torch.Tensor) -> torch.Tensor:
        return task.embed({"image": image, "rows.image": torch.arange(len(image), device=image.device)})["image"]

    pictures, labels = _embed_pictures(task, found, "eval", embed_image, engine, **reading)

    classes = class_embeddings(found.classes or (), text_embedder(task, engine), templates=sentences)
    return {"data": found.name, "rows": len(labels), **zero_shot(pictures, labels, classes), "templates": list(sentences)}


def _linear_probe(opened: Run, data: str | None, engine: Engine, broken: str, **reading: Any) -> dict[str, Any]:
    task: Any = opened.to_change().task  # features come from inside of the network
    task.of_pictures()  # raises where there are none
    tower: Any = task.joint.towers["image"] if isinstance(task, Align) else task.trainable_module

    def features(image: torch.Tensor) -> torch.Tensor:
        return tower.forward_head(tower.forward_features(image), pre_logits=True)

    found = _labelled(opened, data, broken)
    reading["broken"] = broken
    train = _embed_pictures(task, found, "train", features, engine, **reading)
    test = _embed_pictures(task, found, "eval", features, engine, **reading)
    return {"data": found.name, "rows": len(test[1]), **linear_probe(*train, *test)}


def _print_zero_shot(run: Path, metrics: dict[str, Any]) -> None:
    rows = [[name, metrics[name], metrics["chance"][name]] for name in ("top1", "top5", "mean_class_recall") if name in metrics]
    print_table(f"{run}: zero-shot, {metrics['rows']} pictures of {metrics['data']}", ["metric", "value", "chance"], rows)


def _print_linear_probe(run: Path, metrics: dict[str, Any]) -> None:
    names = ("top1", "mean_class_recall", "held_out_top1", "strength", "train_rows")
    rows = [[name, f"{metrics[name]:g}" if name == "strength" else metrics[name]] for name in names]
    print_table(f"{run}: linear probe, {metrics['rows']} pictures of {metrics['data']}", ["metric", "value"], rows)


@verb("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A directory that zoo train made.")],
    data: Annotated[str | None, typer.Option(help="Other data of the same kind; the run's own by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at a time.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read rows.")] = 0,
    broken: Annotated[str | None, typer.Option(help="Of pictures that can not be read: raise, skip; as in training by default.")] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="Pictures to class names, with nothing trained for it.")] = False,
    templates: Annotated[Path | None, typer.Option(help="Sentences for --zero-shot, one a line, {} for the class name.")] = None,
    linear_probe: Annotated[bool, typer.Option("--linear-probe", help="A linear classifier on the picture network's features.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Metrics of a run on its evaluation rows.

    zoo eval runs/glyphs
    zoo eval runs/glyphs --zero-shot --data digits
    zoo eval runs/digits --linear-probe --data my_folder
    """
    if zero_shot and linear_probe:
        raise ValueError("eval: give --zero-shot or --linear-probe, one of the two")
    if templates is not None and not zero_shot:
        raise ValueError("--templates are the sentences of --zero-shot: give that as well")
    if broken is not None and broken not in BROKEN:
        raise ValueError(f"--broken: expected one of {', '.join(BROKEN)}, got {broken!r}")
    opened = load_run(run)
    broken = broken or opened.broken
    if zero_shot or linear_probe:
        reading: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "broken": broken}
        engine = Engine(device)
        found = _zero_shot(opened, data, templates, engine, **reading) if zero_shot else _linear_probe(opened, data, engine, **reading)
        if as_json:
            print(json.dumps({"run": str(run), "measured": "zero-shot" if zero_shot else "linear-probe", **found}, indent=2))
        else:
            (_print_zero_shot if zero_shot else _print_linear_probe)(run, found)
        return
    rows = opened.open_data(data, broken=broken != "raise").eval
    metrics = evaluate_task(opened.task, rows, engine=Engine(device), batch_size=batch_size, workers=workers, broken=broken)
    if as_json:
        print(json.dumps({"run": str(run), "data": data or opened.settings.get("data"), "rows": len(rows), **metrics}, indent=2))
        return
    classes = opened.task.classes if isinstance(opened.task, Classify) else None
    lost = metrics.get("eval_broken", 0)
    print_metrics(metrics, classes, f"{run}: {len(rows)} rows" + (f", {lost} of them broken and left out" if lost else ""))

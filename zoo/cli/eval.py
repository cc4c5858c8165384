"""zoo eval: what a run is worth, on its own evaluation rows or on other data."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..build import load_run
from ..train import Classify
from ..train import evaluate as evaluate_task
from ..train.engine import Engine
from .app import Debug, Json, app, print_table

_CELLS = 25  # a confusion matrix that still fits a terminal


def print_metrics(metrics: dict[str, Any], classes: tuple[str, ...] | None, title: str) -> None:
    """Metrics of one run as a table: accuracy and the confusion matrix, or retrieval both ways beside chance."""
    if classes is None:
        ways = {way: found for way, found in metrics.items() if isinstance(found, dict)}
        rows = []
        for way, found in ways.items():
            rows.append([way, *(found[f"R@{k}"] for k in (1, 5, 10)), found["median_rank"], found["queries"]])
            rows.append(["  chance", *(found["chance"][f"R@{k}"] for k in (1, 5, 10)), "", ""])
        print_table(title, ["direction", "R@1", "R@5", "R@10", "median rank", "queries"], rows)
        return
    print_table(title, ["metric", "value"], [[name, f"{value:.2f}"] for name, value in metrics.items() if name != "confusion"])
    if len(classes) <= _CELLS:
        rows = [[name, *row] for name, row in zip(classes, metrics["confusion"], strict=True)]
        print_table("rows: true, columns: predicted", ["", *classes], rows)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A directory that zoo train made.")],
    data: Annotated[str | None, typer.Option(help="Other data of the same kind; the run's own by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at a time.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read rows.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Metrics of a run on its evaluation rows."""
    opened = load_run(run)
    rows = opened.open_data(data).eval
    metrics = evaluate_task(opened.task, rows, engine=Engine(device), batch_size=batch_size, workers=workers)
    if as_json:
        print(json.dumps({"run": str(run), "data": data or opened.settings.get("data"), "rows": len(rows), **metrics}, indent=2))
        return
    classes = opened.task.classes if isinstance(opened.task, Classify) else None
    print_metrics(metrics, classes, f"{run}: {len(rows)} rows")

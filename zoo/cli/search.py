"""zoo search: the nearest items to a text or to a picture, in a joint embedding."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..build import load_run
from ..datasets import Split, read_picture
from ..progress import tracked
from ..train import Align
from ..train.engine import Engine
from ..train.loader import InOrder, PreparedRows, load
from .app import Debug, Json, app, console, print_table


def embed_split(task: Align, split: Split, engine: Engine, *, batch_size: int = 256, workers: int = 0) -> tuple[dict, dict]:
    """Embeddings of every row of a split and the rows they belong to, both by modality."""
    engine.place(task)
    task.eval()
    plan = InOrder(len(split), batch_size)
    loader = load(PreparedRows(split, task.prepare(False), 0), plan, task.collate, workers=workers, pin=False)
    return task.embed_all((engine.to_device(batch) for batch in tracked(loader, len(plan), "embed")), task.joint)


@torch.no_grad()
def embed_query(task: Align, engine: Engine, **row: Any) -> torch.Tensor:
    """[1, D] of the one value in `row`, such as text="digit seven" or image=a PIL picture."""
    batch = task.collate([{**task.prepare(False)(row), "id": 0, "index": 0}])
    (embedding,) = task.embed(engine.to_device(batch)).values()
    return embedding.float().cpu()


def nearest_rows(query: torch.Tensor, gallery: torch.Tensor, rows: torch.Tensor, pictures: Any, k: int) -> list[tuple[int, float]]:
    """(row, cosine) of the k nearest different pictures, best first."""
    scores = (query @ gallery.T).squeeze(0)
    found: list[tuple[int, float]] = []
    seen = set()
    for place in scores.argsort(descending=True).tolist():
        row = int(rows[place])
        if pictures[row] not in seen:
            seen.add(pictures[row])
            found.append((row, float(scores[place])))
        if len(found) == k:
            break
    return found


def draw_results(results: list[tuple[str, list[tuple[Any, str]]]], path: Path) -> Path:
    """A grid: a row a query, its nearest pictures from left to right with what they are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(found) for _, found in results)
    figure = Figure(figsize=(1.6 * columns, 2.1 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(results), 1, squeeze=False)
    for (query, found), part in zip(results, parts[:, 0], strict=True):
        part.suptitle(query, x=0.01, ha="left", fontsize=10, fontweight="bold")
        for place, axes in enumerate(part.subplots(1, columns, squeeze=False)[0]):
            axes.axis("off")
            if place < len(found):
                picture, words = found[place]
                axes.imshow(picture)
                axes.set_title("\n".join(_wrapped(words, 22)), fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    return path


def _wrapped(words: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(words, width)[:3] or [""]


@app.command("search")
def search(
    run: Annotated[Path, typer.Argument(help="A directory that zoo train image=... text=... made.")],
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for what is like this picture.")] = None,
    data: Annotated[str | None, typer.Option(help="Where to look; the run's own evaluation rows by default.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many to show.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Also draw the results into this picture file.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The pictures nearest to a text, or to another picture.

    zoo search runs/glyphs "greek small letter alpha"
    zoo search runs/glyphs --image mine.png -k 10 --out found.png
    """
    if (query is None) == (image is None):
        raise ValueError("search: give a text or --image FILE, one of the two")
    if k < 1:
        raise ValueError(f"-k: expected at least 1, got {k}")
    opened = load_run(run)
    task = opened.task
    if not isinstance(task, Align):
        raise ValueError(f"{run} is a classifier; search needs a joint embedding: zoo train image=effnet_cbam_b0 text=transformer ...")
    if query is not None and "text" not in task.columns:
        raise ValueError(f"{run} embeds {', '.join(task.columns)}, not text; give --image FILE")
    split = opened.open_data(data).eval
    engine = Engine(device)
    embeddings, rows = embed_split(task, split, engine)
    if "image" not in embeddings:
        raise ValueError(f"{data or opened.settings.get('data')}: no picture to find among {len(split)} rows")
    asked = {"text": query} if image is None else {"image": read_picture(image)}
    found = nearest_rows(embed_query(task, engine, **asked), embeddings["image"], rows["image"], split.pictures, k)
    items = [(split[row], row, score) for row, score in found]
    what = query if query is not None else str(image)
    if out is not None:
        draw_results([(what, [(item["image"], item.get("text", f"row {row}")) for item, row, _ in items])], out)
    if as_json:
        results = [{"row": row, "score": score, **{k: v for k, v in item.items() if k != "image"}} for item, row, score in items]
        print(json.dumps({"query": what, "results": results}, indent=2, ensure_ascii=False))
        return
    cells = [[place, f"{score:.3f}", item.get("text", ""), row] for place, (item, row, score) in enumerate(items, 1)]
    print_table(what, ["", "score", "text", "row"], cells)
    if out is not None:
        console.print(f"drawn in {out}")

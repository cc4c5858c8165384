"""zoo search: the nearest items to a text, to a picture, or to a value of any modality that a joint embedding knows."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from registry import nearest

from ..build import load_run
from ..datasets import Data, Split, read_picture
from ..deploy import build_index, kept_index, model_digest, nearest_items
from ..train import Align
from ..train.engine import Engine
from .app import Debug, Json, console, print_table, verb

SPLITS = ("eval", "train", "all")


@torch.no_grad()
def embed_query(task: Align, engine: Engine, **row: Any) -> torch.Tensor:
    """[1, D] of the one value in `row`, such as text="digit seven" or image=a PIL picture."""
    engine.place(task)
    task.eval()
    batch = task.collate([{**task.prepare(False)(row), "id": 0, "index": 0}])
    (embedding,) = task.embed(engine.to_device(batch)).values()
    return embedding.float().cpu()


def draw_results(results: list[tuple[str, list[tuple[Any, str]]]], path: Path) -> Path:
    """A grid: a row a query, its nearest pictures from left to right with what they are; words alone where there is no picture."""
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
                if picture is not None:
                    axes.imshow(picture)
                axes.set_title("\n".join(_wrapped(words, 22)), fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    return path


def _wrapped(words: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(words, width)[:3] or [""]


def known(option: str, name: str, names: Sequence[str], what: str) -> str:
    """`name`, if it is one of the names; otherwise an error that says which option, what it got, and the nearest right name."""
    if name not in names:
        raise ValueError(f"{option} {name}: expected {what} ({', '.join(names)}); {nearest(name, list(names))}")
    return name


def _asked(task: Align, modality: str, query: str) -> Any:
    """The value of a modality that a query on the command line stands for."""
    if modality == "image":
        return read_picture(query)
    if getattr(task.joint.towers[modality], "reads", "text") != "table":
        return query
    columns = getattr(task.joint.towers[modality], "columns", task.tables.get(modality, ()))
    try:
        row = json.loads(query)
        if not isinstance(row, dict) or not row:
            raise ValueError("not an object with a column in it")
    except ValueError as error:
        raise ValueError(f'--from {modality}: expected JSON such as {{"column": "value"}}, got {query!r} ({error})') from error
    if columns and (unknown := [column for column in row if column not in columns]):
        raise ValueError(f"--from {modality}: the run reads no column {unknown[0]!r}; {nearest(unknown[0], list(columns))}")
    return row


def _words(modality: str, shown: dict[str, Any]) -> str:
    value = next((shown[name] for name in (modality, "text", "path") if shown.get(name) is not None), "")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@verb("search")
def search(
    run: Annotated[Path, typer.Argument(help="A directory that zoo train image=... text=... made.")],
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for what is like this picture.")] = None,
    to: Annotated[str | None, typer.Option(help="What to find: image (the default), text, or another modality of the run.")] = None,
    from_: Annotated[str, typer.Option("--from", help="What QUERY is, if no text: the path of a file, or JSON for a table.")] = "text",
    data: Annotated[str | None, typer.Option(help="Where to look; the run's own data by default.")] = None,
    split: Annotated[str, typer.Option(help="Which of its rows: eval, train or all.")] = "eval",
    k: Annotated[int, typer.Option("-k", help="How many to show.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Also draw the results into this picture file.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Embed the rows again, whether or not anything has changed.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Look at every row, also where there are very many.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read rows.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The pictures or texts nearest to a text or a picture.

    The first search embeds the rows and keeps them in RUN/index; the next ones read that.

    zoo search runs/glyphs "greek small letter alpha"
    zoo search runs/glyphs --image mine.png --to text
    zoo search runs/glyphs --image mine.png -k 10 --split all --out found.png
    """
    if (query is None) == (image is None):
        raise ValueError("search: give a text or --image FILE, one of the two")
    if k < 1:
        raise ValueError(f"-k: expected at least 1, got {k}")
    known("--split", split, SPLITS, "which rows")
    model = model_digest(run)
    opened = load_run(run)
    task = opened.task
    if not isinstance(task, Align):
        raise ValueError(f"{run} is a classifier; search needs a joint embedding: zoo train image=effnet_cbam_b0 text=transformer ...")
    if query is not None and from_ == "text" and "text" not in task.columns:
        raise ValueError(f"{run} embeds {', '.join(task.columns)}, not text; give --image FILE or --from MODALITY")
    asks = known("--from", from_ if image is None else "image", task.columns, "a modality of the run")
    to = known("--to", to or ("image" if "image" in task.columns else task.columns[0]), task.columns, "a modality of the run")
    what = query if query is not None else str(image)
    engine = Engine(device)
    asked = embed_query(task, engine, **{asks: _asked(task, asks, what)})

    named = data or opened.settings.get("data") or ""

    @functools.cache
    def rows(name: str) -> Split:  # not asked for if the index is there
        return getattr(opened_data(), name)

    @functools.cache
    def opened_data() -> Data:
        return opened.open_data(data)

    indices = {}
    for name in ("train", "eval") if split == "all" else (split,):
        build = functools.partial(lambda name: build_index(task, rows(name), engine, workers=workers, broken=opened.broken), name)
        indices[name] = kept_index(run, named, name, build, model=model, rebuild=rebuild)
        if not indices[name].shown and split != "all":
            raise ValueError(f"{named} has no {name} rows to search; give --split {'eval' if name == 'train' else 'train'} or --split all")
    found = nearest_items(indices, to, asked, k, exact=exact)
    if not found:
        thing = {"image": "picture"}.get(to, to)
        raise ValueError(f"{named}: no {thing} to find among {sum(len(index.shown) for index in indices.values())} rows")
    if out is not None:
        pictures = [rows(name)[row].get("image") for name, row, _, _ in found]
        named_rows = [_words(to, shown) or f"row {row}" for _, row, _, shown in found]
        draw_results([(what, list(zip(pictures, named_rows, strict=True)))], out)
    if as_json:
        results = [
            {"row": row, "score": score, "split": name, **{key: value for key, value in shown.items() if key != "files"}}
            for name, row, score, shown in found
        ]
        print(json.dumps({"query": what, "from": asks, "to": to, "results": results}, indent=2, ensure_ascii=False))
        return
    cells = [[place, f"{score:.3f}", _words(to, shown), name, row] for place, (name, row, score, shown) in enumerate(found, 1)]
    header = "text" if any("text" in shown for *_, shown in found) and to in ("image", "text") else to
    print_table(what, ["", "score", header, "split", "row"], cells)
    if out is not None:
        console.print(f"drawn in {out}")

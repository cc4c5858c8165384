"""zoo demo: the whole story on built-in data, in a few minutes of two cores."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import timm
import typer

from ..build import create_task, load_run, open_data, write_report
from ..deploy import build_index, kept_index, model_digest, nearest_items
from ..train import Align, TrainConfig, evaluate, fit
from ..train.engine import Engine
from ..train.randomness import seed_everything
from .app import Debug, Json, console, print_table, verb
from .search import draw_results, embed_query

DIGITS = {"cbam": "effnet_cbam_b0", "se": "effnet_se_b0"}
GLYPHS = {"image": "effnet_cbam_b0", "text": "transformer"}
QUERIES = ("greek small letter alpha", "latin capital letter q", "digit seven")


def _train(what: str, model: Any, data: str, config: TrainConfig) -> dict[str, Any]:
    console.rule(what, align="left")
    opened = open_data(data)
    seed_everything(config.seed)
    task = create_task(model, opened)
    return fit(task, opened.train, opened.eval, config, about={"data": opened.name})


@verb("demo")
def demo(
    out: Annotated[Path, typer.Option(help="Where the runs and the picture go.")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(help="Of the two classifiers.")] = 8,
    glyph_epochs: Annotated[int, typer.Option(help="Of the joint embedding.")] = 20,
    characters: Annotated[int, typer.Option(help="How many characters the joint embedding learns.")] = 100,
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The whole story on built-in data, in a few minutes.

    Trains CBAM beside SE on handwritten digits, then pictures and words of characters together, and searches them.
    """
    with _silent(as_json):
        told = _story(out, epochs, glyph_epochs, characters, seed, overwrite)
    if as_json:
        print(json.dumps(told, indent=2))


@contextmanager
def _silent(asked: bool) -> Iterator[None]:
    before, console.quiet = console.quiet, asked
    try:
        yield
    finally:
        console.quiet = before


def _story(out: Path, epochs: int, glyph_epochs: int, characters: int, seed: int, overwrite: bool) -> dict[str, Any]:
    """Tells it, and returns its numbers."""
    began = time.monotonic()
    glyphs = f"glyphs:characters={characters}"
    rows, classified = [], {}
    for attention, name in DIGITS.items():
        config = TrainConfig(epochs=epochs, out=str(out / f"digits-{attention}"), seed=seed, overwrite=overwrite)
        metrics = _train(f"{name} on digits", name, "digits", config)
        classified[attention] = (config.out, metrics["top1"])
        rows.append([name, f"{metrics['top1']:.1f} %", f"{metrics['step']} steps", config.out])
    config = TrainConfig(epochs=glyph_epochs, out=str(out / "glyphs"), seed=seed, overwrite=overwrite)
    found = _train(
        "image=effnet_cbam_b0 text=transformer on glyphs: twelve fonts to learn from, another to be asked for", GLYPHS, glyphs, config
    )

    console.rule("what came out", align="left")
    model = model_digest(out / "glyphs")
    run = load_run(out / "glyphs")
    task = run.task
    assert isinstance(task, Align)
    split = run.open_data().eval
    again = evaluate(load_run(out / "digits-cbam").task, open_data("digits").eval)
    readable = timm.create_model(f"local-dir:{out / 'digits-cbam'}", pretrained=True)
    print_table("digits: accuracy on 360 pictures that were not trained on", ["model", "top-1", "after", "run"], rows)
    retrieval = []
    for way in ("image->text", "text->image"):
        retrieval.append([way, *(found[way][f"R@{k}"] for k in (1, 5, 10))])
        retrieval.append(["  chance", *(found[way]["chance"][f"R@{k}"] for k in (1, 5, 10))])
    print_table(
        f"glyphs: {len(split)} characters in a font that was not trained on, % found", ["direction", "R@1", "R@5", "R@10"], retrieval
    )

    engine = Engine()
    index = kept_index(run.path, glyphs, "eval", lambda: build_index(task, split, engine), model=model)
    results = []
    for query in QUERIES:
        near = nearest_items({"eval": index}, "image", embed_query(task, engine, text=query), 6)
        results.append((query, [(split[row]["image"], shown["text"]) for _, row, _, shown in near]))
        console.print(f"{query!r} -> {', '.join(words for _, words in results[-1][1][:3])}", highlight=False, soft_wrap=True)
    picture = draw_results(results, out / "search.png")
    report = write_report([*(out / f"digits-{attention}" for attention in DIGITS), out / "glyphs"], out / "report.html")

    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    console.print(
        f"\nDone in {minutes} min {seconds} s. zoo reads {out / 'digits-cbam'} back with {again['top1']:.1f} % and timm with "
        f"{sum(p.numel() for p in readable.parameters()):,} parameters.\n"
        f"  {picture}   the three searches as a picture\n"
        f"  zoo eval {out / 'digits-cbam'}\n"
        f'  zoo search {out / "glyphs"} "greek capital letter omega"\n'
        f"  zoo train effnet_eca_b0 --data YOUR_FOLDER --out runs/mine      a folder of class folders, or a .csv\n"
        f"  zoo list 'effnet_*_b0'\n"
        f"  {report}   the three runs as one page: open it in a browser",
        highlight=False,
        soft_wrap=True,
    )
    return {
        "digits": {attention: {"run": run, "top1": accuracy} for attention, (run, accuracy) in classified.items()},
        "glyphs": {"run": str(out / "glyphs"), **{way: found[way] for way in ("image->text", "text->image")}},
        "searches": {query: [words for _, words in nearest] for query, nearest in results},
        "picture": str(picture),
        "report": str(report),
    }

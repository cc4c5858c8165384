"""zoo predict: what a trained network says of pictures, of a folder of them, of a video or of a camera."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..build import load_run
from ..deploy import load_exported, named
from ..deploy.sources import Seen, is_camera, open_sources
from ..evaluate import class_embeddings
from ..progress import console as progress_console
from ..progress import progress
from ..train import Align, Classify, Preprocess
from ..train.engine import Engine
from .app import Debug, Json, console, print_table, verb
from .eval import text_embedder

Logits = Callable[[torch.Tensor], torch.Tensor]


def _of_classifier(task: Classify, engine: Engine) -> Logits:
    return lambda pixels: task.trainable_module(engine.to_device({"image": pixels})["image"])


def _zero_shot(task: Align, engine: Engine, classes: list[str]) -> Logits:
    """Cosines with the class names, as sharp as the run has learned them to be."""
    places = class_embeddings(classes, text_embedder(task, engine))
    pair = next((number for number, its in enumerate(task.joint.pairs) if set(its) == {"image", "text"}), None)
    scale = 1.0 if task.joint.logit_scale is None or pair is None else task.joint.logit_scale[pair].exp().item()

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        batch = engine.to_device({"image": pixels, "rows.image": torch.arange(len(pixels))})
        return scale * task.embed(batch)["image"].double().cpu() @ places.T

    return logits


def _open(path: Path, classes: list[str], device: str) -> tuple[Logits, Preprocess, list[str], bool]:
    """What a run, an exported folder or a file says of pixels; how pictures become those; the classes; whether several may hold."""
    if path.is_file() and path.suffix == ".onnx":
        file = load_exported(path)
        if file.classes is None:
            raise ValueError(f"{path} gives embeddings, and no classes: give the folder that it was written into, with --classes a,b,c")
        _no_classes(path, classes, file.classes)
        ((name, function),) = file.functions.items()
        return lambda pixels: torch.from_numpy(function(pixels.numpy())), file.preprocess[name], list(file.classes), file.multi_label
    if path.is_file():
        raise ValueError(
            f"{path}: expected a run directory, an exported folder or a .onnx file; of {path.suffix or 'others'} give the folder"
        )
    run = load_run(path)
    engine = Engine(device)
    engine.place(run.task)
    run.task.eval()
    preprocess = run.task.of_pictures()
    if isinstance(run.task, Classify):
        _no_classes(path, classes, run.task.classes)
        return _of_classifier(run.task, engine), preprocess, list(run.task.classes), run.task.multi_label
    assert isinstance(run.task, Align)
    if not classes:
        raise ValueError(
            f"{path} is a joint embedding and has no classes of its own: name some (--classes cat,dog), "
            f"or look for what is near (zoo search {path} --image FILE --to text)"
        )
    if "text" not in run.task.columns:
        raise ValueError(f"--classes: {path} embeds {', '.join(run.task.columns)}, not text; it can not read names of classes")
    return _zero_shot(run.task, engine, classes), preprocess, classes, False


def _no_classes(path: Path, given: list[str], own: Any) -> None:
    if given:
        raise ValueError(f"--classes: {path} is a classifier and has its own ({', '.join(own[:8])}{', ...' if len(own) > 8 else ''})")


def _batches(seen: Iterator[Seen], size: int) -> Iterator[list[Seen]]:
    batch = []
    for each in seen:
        batch.append(each)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _place(seen: Seen) -> str:
    return seen.file if seen.frame is None else f"{seen.file} #{seen.frame}"


@verb("predict")
def predict(
    run: Annotated[Path, typer.Argument(help="A run directory, an exported folder, or a .onnx file out of one.")],
    images: Annotated[list[str], typer.Argument(help="Picture files, folders of them, a video file, or camera:0.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many classes to show, the likeliest first.")] = 1,
    classes: Annotated[str | None, typer.Option(help="Of a joint embedding: names to choose from, as cat,dog.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures at a time; 16 by default, and 1 of a camera.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Of a video or camera one frame in so many.")] = 1,
    frames: Annotated[int | None, typer.Option(min=1, help="Of a video or camera so many at most; a camera goes on until Ctrl-C.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What a trained network says of pictures.

    The exit code is 0 where all could be read, 1 where some could not: they are named and left out.

    zoo predict runs/digits photo.jpg folder -k 3
    zoo predict exported clip.mp4 --every 10 --json       an exported folder, run by its own runtime; a line of JSON a picture
    zoo predict runs/glyphs pictures --classes alpha,beta
    """
    chosen = [each.strip() for each in classes.split(",") if each.strip()] if classes is not None else []
    if classes is not None and len(set(chosen)) < 2:
        raise ValueError(f"--classes: expected two names or more, as cat,dog, got {classes!r}")
    total, seen = open_sources(images, every=every, most=frames)
    logits_of, preprocess, names, multi_label = _open(run, chosen, device)
    transform = preprocess.transform(training=False)
    size = batch_size or (1 if any(map(is_camera, images)) else 16)
    rows: list[list[Any]] = []
    read = broken = 0
    start = time.monotonic()
    try:
        with torch.no_grad(), progress(total, "predict") as advance:
            for batch in _batches(seen, size):
                there = [each.picture for each in batch if each.picture is not None]
                logits = logits_of(torch.stack([transform(each) for each in there])).cpu().numpy() if there else ()
                said = iter(logits)
                for each in batch:
                    if each.picture is None:
                        broken += 1
                        progress_console.print(f"{_place(each)}: {each.why}; left out", highlight=False, soft_wrap=True)
                        found: dict[str, Any] = {"broken": each.why}
                    else:
                        read += 1
                        likely = list(named(next(said), names, multi_label).items())[:k]
                        found = {"classes": [{"class": name, "probability": value} for name, value in likely]}
                        cells = [[name, f"{value:.3f}"] for name, value in likely]
                        rows += [[_place(each) if number == 0 else "", *cell] for number, cell in enumerate(cells)]
                    if as_json:
                        print(json.dumps({"file": each.file, **({} if each.frame is None else {"frame": each.frame}), **found}), flush=True)
                        rows.clear()
                    now = f"{rows[-len(cells)][1]}  " if rows and each.picture is not None else ""
                    advance(f"{now}{read / max(time.monotonic() - start, 1e-9):,.1f} a second")
    except KeyboardInterrupt:
        if not any(map(is_camera, images)):
            raise
    seconds = time.monotonic() - start
    if rows:
        print_table(str(run), ["file", "class", "probability"], rows)
    speed = f", {read / seconds:,.1f} a second" if read else ""
    told = f"{read:,} pictures{speed}" + (f"; {broken:,} could not be read" if broken else "")
    progress_console.print(told, highlight=False, soft_wrap=True) if as_json else console.print(told, highlight=False, soft_wrap=True)
    if broken:
        raise typer.Exit(1)

"""zoo distill: a small classifier that learns from a trained one."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..build import create_model, load_run, open_data
from ..compress import costs, write_card
from ..datasets import Data
from ..train import Classify, Preprocess, TrainConfig, evaluate
from ..train.config import DEVICES
from .app import Debug, Json, verb
from .train import train

_DEFAULT = TrainConfig()


def _teacher(name: str, data: Data) -> Classify:
    """The teacher as a task that can be measured: a run directory, or a timm network with weights."""
    if Path(name).is_dir():
        task = load_run(name).task
        if not isinstance(task, Classify):
            raise ValueError(f"teacher {name}: expected a classifier, got a joint embedding")
        return task
    network: Any = create_model(name, pretrained=True)
    return Classify(network, name=name, preprocess=Preprocess.of(network, augment="none"), classes=data.classes or ())


@verb("distill")
def distill(
    teacher: Annotated[str, typer.Argument(help="A run directory, or a timm name with weights, of the same classes.")],
    student: Annotated[str, typer.Option(help="The network to train, such as effnet_eca_lite0.")],
    out: Annotated[Path, typer.Option(help="The run directory.")],
    data: Annotated[str | None, typer.Option(help="What to learn on; what a teacher's run was trained on by default.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.")] = _DEFAULT.epochs,
    batch_size: Annotated[int | None, typer.Option(help="Rows a micro-batch; 32 by default.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; 2e-3 by default.")] = None,
    distill_alpha: Annotated[float | None, typer.Option(help="Share of the teacher in the loss; 0.5 by default.")] = None,
    distill_temperature: Annotated[float | None, typer.Option(help="Of teacher and student; 2 by default.")] = None,
    img_size: Annotated[int | None, typer.Option(help="Pixels; what suits the data or the student by default.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start the student from timm's weights.")] = False,
    init: Annotated[str | None, typer.Option(help="Weights of the student without its attention: a file, or a run directory.")] = None,
    device: Annotated[str, typer.Option(help=", ".join(DEVICES))] = _DEFAULT.device,
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = _DEFAULT.seed,
    workers: Annotated[int | None, typer.Option(help="Processes that read rows; changes no result.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a small classifier that learns from a trained one. It is zoo train --teacher, with a card of both.

    zoo distill runs/large --student effnet_eca_lite0 --out runs/small
    """
    named = data or (load_run(teacher).settings.get("data") if Path(teacher).is_dir() else None)
    if named is None:
        raise ValueError(f"{teacher} does not say what it was trained on: give --data")
    opened = open_data(named)
    measured = _teacher(teacher, opened)
    train(
        model=[student],
        data=named,
        out=str(out),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        teacher=teacher,
        distill_alpha=distill_alpha,
        distill_temperature=distill_temperature,
        img_size=img_size,
        pretrained=pretrained,
        init=init,
        device=device,
        seed=seed,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
    )
    learned: Any = load_run(out).task
    numbers = []
    for task, folder in ((measured, Path(teacher)), (learned, out)):
        top = {task.metric: evaluate(task, opened.eval, workers=workers or 0)[task.metric]}
        numbers.append(top | costs(task.trainable_module, task.preprocess.input_size, folder / "model.safetensors"))
    card = write_card(
        out, *numbers, made={"verb": "distill", "from": teacher, "student": student, "data": named}, names=("teacher", "student")
    )
    if as_json:
        print(json.dumps({"run": str(out), **card}, indent=2))

"""zoo swap: another attention in a trained network, as a new run directory."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..backbones import swap_attention
from ..backbones.swap import KEEP
from ..build import load_run
from ..progress import console
from ..train import Classify, TrainConfig, fit
from ..train.folder import claim, may_make
from ..train.lock import alone
from ..train.randomness import seed_everything
from .app import Debug, Json, verb


@verb("swap")
def swap(
    run: Annotated[Path, typer.Argument(help="A directory that zoo train made.")],
    attention: Annotated[str, typer.Argument(help="The new attention: a name of zoo list --attention.")],
    out: Annotated[Path, typer.Option(help="The new run directory.")],
    keep: Annotated[
        str, typer.Option(help=f"{' or '.join(KEEP)}: keep the function and hand over while training, or start anew.")
    ] = "graft",
    stages: Annotated[str | None, typer.Option(help="Stages, from 0, such as 4,5; all by default.")] = None,
    where: Annotated[str | None, typer.Option(help="A pattern of slot paths, such as 'blocks.[56].*'.")] = None,
    finetune_epochs: Annotated[int, typer.Option(min=0, help="Train the new network, on the run's own data and recipe.")] = 0,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the fine-tuning; the run's own by default.")] = None,
    data: Annotated[str | None, typer.Option(help="Other data of the same kind to fine-tune on.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a fine-tuning that stopped: the same command again.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Put another attention into a trained network; what it has learned stays.

    zoo swap runs/digits coord --out runs/coord                        then: zoo train runs/coord --data digits --out runs/trained
    zoo swap runs/digits cbam --out runs/cbam --finetune-epochs 5      the same in one step
    """
    may_make(out, run, resume=resume, overwrite=overwrite, finetunes=finetune_epochs > 0)
    if stages is not None and not all(each.strip().isdecimal() for each in stages.split(",")):
        raise ValueError(f"stages: expected numbers such as 4,5, got {stages!r}")
    opened = load_run(run).to_change()
    task: Any = opened.task
    network = task.trainable_module if isinstance(task, Classify) else task.trainable_module.towers["image"]
    numbers = [int(each) for each in stages.split(",")] if stages is not None else None
    seed_everything(opened.settings.get("seed", 0))  # the same command makes the same network
    report = swap_attention(network, attention, stages=numbers, where=where, keep=keep)
    about = {"swapped": {"from": str(run), "attention": attention, "keep": keep, "slots": len(report)}}
    if finetune_epochs:
        rows = opened.open_data(data)
        recipe = {each.name: opened.settings[each.name] for each in fields(TrainConfig) if each.name in opened.settings}
        recipe |= {"epochs": finetune_epochs, "out": str(out), "resume": resume, "overwrite": overwrite, **({"lr": lr} if lr else {})}
        metrics = fit(task, rows.train, rows.eval, TrainConfig(**recipe), about={"data": data or opened.settings.get("data"), **about})
    else:
        with alone(out):
            claim(out, overwrite=overwrite)  # no checkpoint of the run that was there may be taken for one of this network
            task.save(out, task.trainable_module, {**opened.settings, **about})
        metrics = {}
    if as_json:
        measured = {key: value for key, value in metrics.items() if not isinstance(value, list)}
        print(json.dumps({"run": str(out), "slots": [asdict(change) for change in report], "note": report.note, **measured}, indent=2))
        return
    print(report)
    if finetune_epochs:
        console.print(f"{task.metric} {metrics[task.metric]:.1f} %; the run is in {out}", highlight=False, soft_wrap=True)
    else:
        joint = f"zoo swap {run} {attention} --out ... --finetune-epochs ... (zoo train would start the other towers anew)"
        onward = f"zoo train {out} --data ... --out ..." if isinstance(task, Classify) else joint
        console.print(f"the new network is in {out}; next: {onward}", highlight=False, soft_wrap=True)

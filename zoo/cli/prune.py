"""zoo prune: a trained network with narrower blocks, as a new run directory."""

import copy
import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..backbones.macs import count_macs
from ..build import Run, load_run
from ..compress import Distill, PruneReport, check_target, costs, prune, write_card
from ..datasets import Data
from ..progress import console
from ..train import Classify, Task, TrainConfig, evaluate, fit
from ..train.folder import claim, is_run, may_make
from ..train.lock import alone
from ..train.randomness import seed_everything
from .app import Debug, Json, verb


def _network(task: Any) -> Any:
    if isinstance(task, Classify):
        return task.trainable_module
    towers = task.trainable_module.towers
    if "image" not in towers:
        raise ValueError(f"the run has no image tower to prune; its towers are {', '.join(towers)}")
    return towers["image"]


def _rows(opened: Run, data: str | None, needed: bool) -> Data | None:
    """What the run was trained on; without a fine-tuning it may do without, and then nothing is measured."""
    try:
        return opened.open_data(data)
    except (ValueError, OSError) as error:
        if needed or data is not None:
            raise
        console.print(f"warning: nothing is measured: {error}", highlight=False, soft_wrap=True)
        return None


def _distils(task: Task, asked: bool | None) -> bool:
    """Whether the network recovers by learning what the unpruned one says, too."""
    able = isinstance(task, Classify) and not task.multi_label
    if asked and not able:
        raise ValueError("distill: distillation is for classifiers with one label a picture; leave it out, and the run's own loss serves")
    if asked is None and not able:
        told = "no distillation, which is for classifiers with one label a picture: it recovers by the run's own loss"
        console.print(told, soft_wrap=True)
    return able and asked is not False


@verb("prune")
def prune_run(
    run: Annotated[Path, typer.Argument(help="A directory that zoo train made.")],
    out: Annotated[Path, typer.Option(help="The new run directory.")],
    macs: Annotated[float, typer.Option(help="Share of the multiplications that is to be left, between 0 and 1.")] = 0.5,
    steps: Annotated[int, typer.Option(min=1, help="Cut in so many steps, with a part of the epochs after each.")] = 3,
    finetune_epochs: Annotated[int | None, typer.Option(min=0, help="Recover, on the run's data; twice its own by default.")] = None,
    distill: Annotated[
        bool | None, typer.Option("--distill/--no-distill", help="Learn from the unpruned network as well; classifiers do by default.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the fine-tuning; the run's own by default.")] = None,
    data: Annotated[str | None, typer.Option(help="Other data of the same kind to fine-tune and measure on.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read rows; changes no result.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a fine-tuning that stopped: the same command again.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Cut the widths inside a trained network's blocks, and let it recover. Of a joint embedding: the image tower.

    zoo prune runs/digits --macs 0.5 --out runs/half
    zoo prune runs/digits --macs 0.3 --steps 5 --finetune-epochs 20 --out runs/third
    """
    may_make(out, run, resume=resume, overwrite=overwrite, finetunes=finetune_epochs != 0)
    opened = load_run(run)
    task: Any = opened.task
    epochs = 2 * int(opened.settings.get("epochs", TrainConfig().epochs)) if finetune_epochs is None else finetune_epochs
    steps = steps if epochs else 1  # nothing to learn in between
    network = _network(task)
    size = task.of_pictures().input_size
    rows = _rows(opened, data, needed=epochs > 0)
    if resume and (out / "card.json").is_file():
        console.print(f"{out} is whole: nothing is left to do", highlight=False, soft_wrap=True)
        return
    recipe = {each.name: opened.settings[each.name] for each in fields(TrainConfig) if each.name in opened.settings}
    recipe |= {"unfreeze_at": None, "workers": workers, **({"lr": lr} if lr is not None else {})}
    TrainConfig(**{**recipe, "epochs": max(epochs, 1)})  # raises before anything is done
    distilled = epochs > 0 and _distils(task, distill)
    seed_everything(opened.settings.get("seed", 0))  # the same command makes the same network
    whole, share = copy.deepcopy(network), macs ** (1 / steps) if 0 < macs < 1 else macs
    if steps > 1:
        check_target(network, macs, size=size)  # raises before anything is trained, where the last step cannot be taken
    before = {**_measured(task, rows, workers), **costs(network, size, run / "model.safetensors")}
    about = {"pruned": {"from": str(run), "macs": macs, "steps": steps, "distilled": distilled}}
    metrics: dict[str, Any] = {}
    reports: list[PruneReport] = []
    for step in range(1, steps + 1):
        target = share**step * before["macs"] / count_macs(network, size)
        if 0 < target < 1 or step == 1:
            reports.append(prune(network, target, size=size, since=whole))
        if step == 1 and not resume:
            with alone(out):
                claim(out, overwrite=overwrite)  # a run that is replaced goes now, or its checkpoints would be taken for these
                shutil.rmtree(out / "steps", ignore_errors=True)
        last = step == steps
        some = epochs - epochs // steps * (steps - 1) if last else epochs // steps
        if some:
            assert rows is not None  # `_rows` has raised where they are needed
            learner = Distill.of(task, teacher=copy.deepcopy(whole), teacher_name=str(run)) if distilled else task
            there = out if last else out / "steps" / str(step)
            here = {"epochs": some, "out": str(there), "resume": resume and is_run(there), "overwrite": False}
            named = {"data": data or opened.settings.get("data"), **about}
            metrics = fit(learner, rows.train, rows.eval, TrainConfig(**{**recipe, **here}), about=named)
    if not epochs:
        with alone(out):
            task.save(out, task.trainable_module, {**opened.settings, **about})
        metrics = _measured(task, rows, workers)
    after = {task.metric: metrics.get(task.metric), **costs(network, size, out / "model.safetensors")}
    made = {"verb": "prune", "from": str(run), "data": data or opened.settings.get("data"), **about["pruned"], "epochs": epochs}
    card = write_card(out, before, after, made=made)
    shutil.rmtree(out / "steps", ignore_errors=True)
    report = _together(reports, [path for path, _ in network.named_modules()])
    if as_json:
        print(json.dumps({"run": str(out), "widths": [asdict(each) for each in report], **card}, indent=2))
        return
    print(report)
    if rows is not None:
        told = f"{task.metric} {before[task.metric]:.1f} % -> {after[task.metric]:.1f} %; "
        console.print(f"{told}the run is in {out}, its card in {out}/card.md", highlight=False, soft_wrap=True)


def _measured(task: Task, rows: Data | None, workers: int | None) -> dict[str, Any]:
    return {task.metric: None if rows is None else evaluate(task, rows.eval, workers=workers or 0)[task.metric]}


def _together(reports: list[PruneReport], layers: list[str]) -> PruneReport:
    """One report of several steps, in the order of the network."""
    cuts: dict[str, Any] = {}
    for each in (cut for report in reports for cut in report):
        cuts[each.layer] = type(each)(each.layer, each.gate, cuts[each.layer].before if each.layer in cuts else each.before, each.after)
    first, last = reports[0], reports[-1]
    inorder = sorted(cuts.values(), key=lambda each: layers.index(each.layer))
    return PruneReport(tuple(inorder), (first.macs[0], last.macs[1]), (first.parameters[0], last.parameters[1]))

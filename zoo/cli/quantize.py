"""zoo quantize: a run as a folder of int8 or bfloat16 files for a runtime, with a card of what that cost."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from registry import nearest

from ..build import Run, load_run
from ..compress import Distill, costs, write_card
from ..compress.quantize import (
    LEAST_SQNR,
    ROWS,
    TARGETS,
    Sensitivity,
    calibration,
    layers,
    obstacles,
    plain,
    quantization_aware,
    search,
    to_edge,
)
from ..datasets import Data
from ..deploy import RUNTIMES, Part, is_exported, parts, write_exported
from ..files import write_together
from ..progress import console
from ..train import Classify, Task, TrainConfig, evaluate, fit
from ..train.folder import is_run
from ..train.randomness import seed_everything
from .app import Debug, Json, verb
from .export import folder

_GENTLER = 0.1  # of the run's learning rate, to train a network that is trained already for its rounding


def _pictures(task: Task) -> list[Part]:
    found = [part for part in parts(task)[0] if part.reads_pictures]
    if not found:
        raise ValueError("this run embeds no pictures: int8 is for the network of pictures")
    return found


def _set_network(task: Any, network: Any) -> None:
    """Another image network for a task."""
    if isinstance(task, Classify):
        task.trainable_module = network
    else:
        task.joint.towers["image"] = network


def _network(task: Any) -> Any:
    return task.trainable_module if isinstance(task, Classify) else task.joint.towers["image"]


def _may_train(out: Path, kind: str, resume: bool, overwrite: bool) -> Path:
    """Where a fine-tuning goes: a run of its own beside the folder."""
    beside = out.with_name(f"{out.name}-{kind}")
    if is_run(beside) and not resume and not overwrite:
        raise ValueError(f"out: {beside}, where the fine-tuned run goes, holds a run: resume it (--resume), or replace it (--overwrite)")
    if beside.exists() and not is_run(beside) and (not beside.is_dir() or any(beside.iterdir())):
        raise ValueError(f"out: {beside}, where the fine-tuned run goes, is not empty and holds no run; choose another --out")
    return beside


def _train(opened: Run, task: Task, rows: Data, there: Path, about: dict[str, Any], how: dict[str, Any]) -> None:
    """The shared loop, on the run's recipe."""
    recipe = {each.name: opened.settings[each.name] for each in fields(TrainConfig) if each.name in opened.settings}
    recipe |= {"unfreeze_at": None, "compile": False, "out": str(there), **how}
    recipe["resume"], recipe["overwrite"] = how["resume"] and is_run(there), how["overwrite"] and is_run(there)
    fit(task, rows.train, rows.eval, TrainConfig(**recipe), about={"data": rows.name, **about})


def _distils(task: Task) -> bool:
    return isinstance(task, Classify) and not task.multi_label


def _warn(to: str, task: Task, edge: bool) -> str | None:
    """What to say where int8 will pay little or nothing, and what would."""
    if to == "torchao-int8":
        return "torchao-int8 is a smaller file, which is computed in float all the same (docs/quantize.md)"
    if to not in ("onnx-int8", "openvino-int8") or edge:
        return None
    part = _pictures(task)[0]
    found = obstacles(part.network, part.example[:1])
    if not found.many:
        return None
    gates = f" and {found.gates} gates" if found.gates else ""
    return (
        f"int8 pays less here: between {found.layers} layers stand {found.smooth} smooth activations{gates}, no int8 operators: "
        "one picture at a time such networks gain far less than a lite variant. Where the processor has bfloat16, --to openvino-bf16 pays; "
        "so does --edge, which replaces them"
    )


@verb("quantize")
def quantize(
    run: Annotated[Path, typer.Argument(help="A directory that zoo train made.")],
    to: Annotated[str, typer.Option(help=", ".join(TARGETS))],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    data: Annotated[str | None, typer.Option(help="Rows to calibrate, train and measure on; the run's own by default.")] = None,
    calibration_rows: Annotated[int, typer.Option(help="Training rows that set the ranges; a quarter of them measures.")] = ROWS,
    sqnr: Annotated[float, typer.Option(help="dB of the outputs over their error that layers are kept in float for.")] = LEAST_SQNR,
    keep: Annotated[str | None, typer.Option(help="Layers to keep in float, with commas, in place of the search; none for none.")] = None,
    qat_epochs: Annotated[int, typer.Option(min=0, help="Train the network for its rounding first, distilling from itself.")] = 0,
    edge: Annotated[bool, typer.Option("--edge", help="First replace smooth activations and gates by what int8 suits.")] = False,
    finetune_epochs: Annotated[int | None, typer.Option(min=1, help="Of --edge; as many as the run had by default.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; the run's own, and a tenth of it for --qat-epochs.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read rows; changes no result.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a fine-tuning that stopped: the same command again.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier folder in --out.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """A trained network in int8 or bfloat16, calibrated on its own rows. zoo eval, zoo predict and zoo serve read it.

    zoo quantize runs/digits --to onnx-int8 --out small
    zoo quantize runs/digits --to onnx-int8 --edge --qat-epochs 2 --out faster
    """
    if to not in TARGETS:
        raise ValueError(f"to: expected {', '.join(TARGETS)}, got {to!r}; {nearest(to, list(TARGETS))}")
    target = TARGETS[to]
    if finetune_epochs and not edge:
        raise ValueError("finetune_epochs: it is the edge variant that is fine-tuned; give --edge, or --qat-epochs for the rounding")
    if resume and not (edge or qat_epochs):
        raise ValueError("resume: it is a fine-tuning that goes on; give --edge or --qat-epochs as before")
    if resume and overwrite:
        raise ValueError("resume and overwrite contradict each other: give one")
    kept = None if keep is None else [] if keep == "none" else keep.split(",")
    if kept and not target.KEEPS:
        raise ValueError(f"keep: {to} can keep no layer in float")
    target.check()
    opened = load_run(run).to_change()
    task: Any = opened.task
    pictures = _pictures(task)
    for part in pictures:
        _check_layers(part.network, kept or [])
    rows = opened.open_data(data)
    with folder(out, overwrite or (resume and is_exported(out))) as writing:
        edged = _may_train(out, "edge", resume, overwrite) if edge else None
        trained = _may_train(out, "qat", resume, overwrite) if qat_epochs else None
        batches = {
            part.modality: calibration(rows.train, part.prepare, part.modality, rows=calibration_rows, broken=opened.broken)
            for part in pictures
        }
        warning = _warn(to, task, edge)
        if warning:
            console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
        size = task.of_pictures().input_size
        before = {task.metric: _measured(task, rows, opened, workers), **costs(_network(task), size, run / "model.safetensors")}
        before["bytes"] = sum(path.stat().st_size for path in run.glob("*.safetensors"))
        seed_everything(opened.settings.get("seed", 0))
        how: dict[str, Any] = {"workers": workers, "resume": resume, "overwrite": overwrite}
        source, whole = run, copy.deepcopy(_network(task)) if _distils(task) else None
        if edged is not None:
            _set_network(task, to_edge(_network(task)))
            learner = _learner(task, whole, str(run))
            epochs = finetune_epochs or int(opened.settings.get("epochs", TrainConfig().epochs))
            own = {"epochs": epochs, **({"lr": lr} if lr else {})}
            _train(opened, learner, rows, edged, {"edge": {"from": str(run)}}, how | own)
            source, task = edged, load_run(edged).task
        if trained is not None:
            teacher = copy.deepcopy(_network(task)) if _distils(task) else None
            learner = _learner(task, teacher, str(source))
            part = _pictures(learner)[0]
            quantization_aware(learner, part.network, batches[part.modality][0])
            gentle = lr or _GENTLER * (opened.settings.get("lr") or learner.default_lr)
            _train(opened, learner, rows, trained, {"quantization": {"from": str(source)}}, how | {"epochs": qat_epochs, "lr": gentle})
            plain(learner)
            source, task = trained, load_run(trained).task
        found: dict[str, Sensitivity] = {}
        config = json.loads((source / "config.json").read_text())
        config["zoo"]["quantized"] = {"from": str(source), "to": to}

        def write(part: Part, path: Path, about: str) -> None:
            names = ("image" if part.reads_pictures else "ids", "logits" if isinstance(task, Classify) else "embeddings")
            runtime: Any = RUNTIMES[target.RUNTIME]
            if not part.reads_pictures:
                runtime.write(part.network, part.example, path, names=names, about=about)
                return

            def made(keep: Sequence[str]) -> Any:
                target.write(part.network, some, path, names=names, about=about, keep=keep)
                return runtime.open(path, **target.OPTIONS)

            some, held_out = batches[part.modality]
            classifier = isinstance(task, Classify)
            asked: dict[str, Any] = {"least": sqnr, "classifier": classifier, "searches": target.KEEPS}
            asked["keep"] = kept
            found[part.modality] = search(made, part.network, some, held_out, **asked)

        task.eval()
        with torch.no_grad():
            notes = write_exported(task, config, target.RUNTIME, writing, run=str(source), write=write, options=target.OPTIONS)
        after = {task.metric: _read_back(writing, task, rows, opened, workers, notes)}
        after |= costs(_network(task), size, Path())
        files = json.loads((writing / "config.json").read_text())["runtime"]["files"]
        after["bytes"] = sum(each["bytes"] for each in files.values())
        made = {"verb": "quantize", "from": str(run), "to": to, "data": rows.name, "calibration_rows": calibration_rows}
        made |= {"edge": edge, "qat_epochs": qat_epochs} | ({} if kept is None else {"keep": kept})
        card = write_card(writing, before, after, made=made, title=out.name)
        card |= _with_layers(writing, card, found, target.KEEPS, warning)
    if as_json:
        print(json.dumps({"folder": str(out), "notes": notes, **card}, indent=2))
        return
    for name, each in found.items():
        print(each if name == "image" else f"{name}:\n{each}")
    for line in (*notes, _told(task, before, after, out)):
        console.print(line, highlight=False, soft_wrap=True)


def _check_layers(network: Any, names: list[str]) -> None:
    known = list(layers(network))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"keep: there is no layer {unknown[0]!r} that could be in int8; {nearest(unknown[0], known)}")


def _learner(task: Any, teacher: Any, name: str) -> Any:
    """The task, of which a classifier also learns what a teacher says."""
    return task if teacher is None else Distill.of(task, teacher=teacher, teacher_name=name)


def _measured(task: Task, rows: Data, opened: Run, workers: int | None) -> Any:
    return evaluate(task, rows.eval, workers=workers or 0, broken=opened.broken)[task.metric]


def _read_back(writing: Path, task: Task, rows: Data, opened: Run, workers: int | None, notes: list[str]) -> Any:
    """What the folder is worth as its readers will open it; None where it cannot be measured alone."""
    try:
        exported = load_run(writing).task
    except ValueError as error:
        notes.append(f"not measured: {error}")
        return None
    return _measured(exported, rows, opened, workers)


def _with_layers(out: Path, card: dict[str, Any], found: dict[str, Sensitivity], searched: bool, warning: str | None) -> dict[str, Any]:
    """The error of each layer goes into the card, and what was warned of."""
    more: dict[str, Any] = {"sensitivity": {name: asdict(each) | {"passed": each.passed} for name, each in found.items()}}
    more |= {"warning": warning} if warning else {}
    text = (out / "card.md").read_text()
    for name, each in found.items():
        text += f"\n{name}: {each.told()}\n"
        rows = [f"| {layer.name} | {layer.sqnr:.1f} | {'float' if layer.kept else 'int8'} |" for layer in each]
        text += "\n".join(["", "| layer | SQNR of it alone, dB | kept in |", "|---|---|---|", *rows, ""]) if rows else ""
        text += "" if searched else "\nNo layer can be kept in float for this target.\n"
    text += f"\nwarning: {warning}\n" if warning else ""
    write_together(out, {"card.json": (json.dumps(card | more, indent=2) + "\n").encode(), "card.md": text.encode()})
    return more


def _told(task: Task, before: dict[str, Any], after: dict[str, Any], out: Path) -> str:
    numbers = [before[task.metric], after[task.metric]]
    metric = f"{task.metric} {numbers[0]:.1f} % -> {numbers[1]:.1f} %; " if None not in numbers else ""
    size = f"{before['bytes'] / 1e6:.2f} MB -> {after['bytes'] / 1e6:.2f} MB; "
    return f"{metric}{size}the network is in {out}, its card in {out}/card.md"

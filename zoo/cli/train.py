"""zoo train: a classifier from one name, a joint embedding from modality=tower pairs."""

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from registry import nearest

from ..build import create_task, each_of, open_data
from ..progress import console
from ..train import Stopped, TrainConfig, fit
from ..train import find_lr as measure_lr
from ..train.config import BROKEN, DEVICES, PRECISIONS, TRACKERS
from ..train.engine import leave
from ..train.preprocess import AUGMENTS
from ..train.randomness import seed_everything
from .app import Debug, Json, print_table, verb

_DEFAULT = TrainConfig()


def parse_model(words: list[str]) -> str | dict[str, str]:
    """["effnet_cbam_b0"] -> that name; ["image=a", "text=b"] -> {"image": "a", "text": "b"}.

    Raises:
        ValueError: neither of the two.
    """
    pairs = [word.partition("=") for word in words]
    if len(words) == 1 and not pairs[0][1]:
        return words[0]
    wrong = [word for word, (modality, equals, tower) in zip(words, pairs, strict=True) if not (modality and equals and tower)]
    if wrong:
        example = "image=effnet_cbam_b0 text=transformer"
        raise ValueError(f"model {' '.join(wrong)!r}: expected one name (a classifier), or modality=tower pairs such as {example}")
    modalities = [modality for modality, _, _ in pairs]
    if len(set(modalities)) < len(modalities):
        raise ValueError(f"a modality is given twice: {' '.join(words)}")
    if len(words) < 2:
        raise ValueError(f"{words[0]}: a joint embedding joins two modalities or more, such as image=effnet_cbam_b0 text=transformer")
    return {modality: tower for modality, _, tower in pairs}


def parse_joint(towers: dict[str, str], given: dict[str, Any], frozen: list[str]) -> dict[str, Any]:
    """The options of a joint embedding that are lists in one word, taken apart.

    Raises:
        ValueError: a word that is none, or a modality that has no tower.
    """
    found: dict[str, Any] = {}
    if "head" in given:
        found["head"] = _each("head", given["head"], list(towers))
    if "pairs" in given:
        pairs = [tuple(word.split("-")) for word in given["pairs"].split(",")]
        if wrong := [pair for pair in pairs if len(pair) != 2]:
            raise ValueError(f"pairs: expected modalities such as image-text,image-table, got {'-'.join(wrong[0])!r}")
        found["pairs"] = pairs
    if "loss" in given:
        found["loss"] = _each("loss", given["loss"], [f"{one}-{other}" for one in towers for other in towers if one != other])
    if "weights" in given:
        found["weights"] = _numbers("weights", given["weights"], "image-text=1,image-table=0.5")
    if "tower_lr" in given:
        rates = _numbers("tower-lr", given["tower_lr"], "image=1e-4")
        if out := {name: rate for name, rate in rates.items() if not 0 < rate < math.inf}:
            raise ValueError(f"tower-lr: expected numbers above 0, got {out}; --freeze keeps a tower as it is")
        if wrong_names := sorted(rates.keys() - towers.keys()):
            raise ValueError(f"tower-lr: there is no tower for {wrong_names[0]!r}; {nearest(wrong_names[0], list(towers))}")
        found["tower_lr"] = {f"towers.{name}": rate for name, rate in rates.items()}
    if unknown := [name for name in frozen if name not in towers]:
        raise ValueError(f"freeze: expected bn or modalities, got {unknown[0]!r}; {nearest(unknown[0], ['bn', *towers])}")
    return {**found, "frozen": frozen}


def _each(option: str, words: str, names: list[str]) -> str | dict[str, str]:
    try:
        return each_of(words, names)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def _numbers(option: str, words: str, example: str) -> dict[str, float]:
    pairs = [word.partition("=") for word in words.split(",")]
    try:
        return {name: float(value) for name, _, value in pairs}
    except ValueError:
        raise ValueError(f"{option}: expected {example}, got {words!r}") from None


def parse_channels(option: str, words: str) -> list[float]:
    """ "0.5,0.5,0.5" -> its numbers; one stands for all three.

    Raises:
        ValueError: other than one number or three.
    """
    try:
        numbers = [float(word) for word in words.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)) or (option == "std" and min(numbers) <= 0):
        raise ValueError(f"{option}: expected one number or three, such as 0.5,0.5,0.5, got {words!r}")
    return numbers * 3 if len(numbers) == 1 else numbers


# the options by what they are about, as --help shows them
_DATA = partial(typer.Option, rich_help_panel="Data and what is done to it")
_NETWORK = partial(typer.Option, rich_help_panel="The network, and what it starts from")
_STEPS = partial(typer.Option, rich_help_panel="How it learns")
_TEACHER = partial(typer.Option, rich_help_panel="A teacher")
_JOINT = partial(typer.Option, rich_help_panel="A joint embedding")
_MACHINE = partial(typer.Option, rich_help_panel="The machine")
_SAFETY = partial(typer.Option, rich_help_panel="Saved, watched, gone on with")


@verb("train")
def train(
    model: Annotated[list[str], typer.Argument(help="effnet_cbam_b0, or image=effnet_cbam_b0 text=transformer.")],
    data: Annotated[str, typer.Option(help="digits, glyphs, a folder, a manifest (.csv .tsv .jsonl .parquet), timm:..., hf:..., wds:...")],
    out: Annotated[str | None, typer.Option(help="The run directory.")] = None,
    epochs: Annotated[int, _STEPS(help="Passes over the training rows.")] = _DEFAULT.epochs,
    batch_size: Annotated[int | None, _STEPS(help="Rows a micro-batch; 32 for a classifier, 64 for a joint embedding.")] = None,
    accumulate: Annotated[int, _STEPS(help="Micro-batches in one step.")] = _DEFAULT.accumulate,
    lr: Annotated[float | None, _STEPS(help="Highest learning rate; 2e-3 for a classifier, 1e-3 for a joint embedding.")] = None,
    layer_decay: Annotated[float | None, _STEPS(help="Factor of the learning rate from layer to layer, such as 0.75.")] = None,
    opt: Annotated[str, _STEPS(help="Any optimizer of timm.")] = _DEFAULT.opt,
    sched: Annotated[str, _STEPS(help="cosine, tanh, step or constant.")] = _DEFAULT.sched,
    warmup: Annotated[float, _STEPS(help="Share of the steps in which the learning rate rises.")] = _DEFAULT.warmup,
    weight_decay: Annotated[float, _STEPS(help="Not applied to biases and norms.")] = _DEFAULT.weight_decay,
    clip_grad: Annotated[float | None, _STEPS(help="Greatest norm of the gradient.")] = None,
    ema: Annotated[float | None, _STEPS(help="Decay of the weights' running average, such as 0.999.")] = None,
    hand_over: Annotated[float, _NETWORK(help="Of a network with grafted gates: share of the steps over which they take over.")] = (
        _DEFAULT.hand_over
    ),
    img_size: Annotated[int | None, _DATA(help="Pixels; what suits the data or the model by default.")] = None,
    augment: Annotated[str | None, _DATA(help=f"{', '.join(AUGMENTS)}; what suits the data by default.")] = None,
    smoothing: Annotated[float | None, _STEPS(help="Label smoothing of a classifier; 0.1 by default.")] = None,
    mixup: Annotated[float | None, _DATA(help="Mixup alpha of a classifier; none by default.")] = None,
    cutmix: Annotated[float | None, _DATA(help="CutMix alpha of a classifier; none by default.")] = None,
    teacher: Annotated[str | None, _TEACHER(help="Distillation: a run directory, or a timm name, of the same classes.")] = None,
    distill_alpha: Annotated[float | None, _TEACHER(help="Share of the teacher in the loss; 0.5 by default.")] = None,
    distill_temperature: Annotated[float | None, _TEACHER(help="Of teacher and student; 2 by default.")] = None,
    drop_path: Annotated[float, _NETWORK(help="Stochastic depth of the picture network.")] = 0.05,
    pretrained: Annotated[bool, _NETWORK("--pretrained", help="Start the picture network from timm's weights.")] = False,
    init: Annotated[str | None, _NETWORK(help="Weights of the network without its attention: a file, or a run directory.")] = None,
    mean: Annotated[str | None, _DATA(help="Of the channels, where the weights do not say it: 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, _DATA(help="Of the channels, where the weights do not say it: 0.5,0.5,0.5.")] = None,
    freeze: Annotated[
        str | None,
        _NETWORK(help="bn: batch norms keep their statistics; trunk, head, stem,blocks.0-3: parts of a classifier; modalities: towers."),
    ] = None,
    unfreeze_at: Annotated[int | None, _NETWORK(help="The epoch, from 1, from which the frozen parts of a classifier learn.")] = None,
    head: Annotated[str | None, _JOINT(help="Of a joint embedding: linear (default), or image=attnpool,text=mlp.")] = None,
    embed_dim: Annotated[int | None, _JOINT(help="Width of a joint embedding; 256 by default.")] = None,
    loss: Annotated[str | None, _JOINT(help="Of a joint embedding: clip (default), or image-text=clip,image-table=siglip.")] = None,
    pairs: Annotated[str | None, _JOINT(help="image-text,image-table; the first modality with each other by default.")] = None,
    weights: Annotated[str | None, _JOINT(help="Factors of the pairs' losses: image-text=1,image-table=0.5.")] = None,
    tower_lr: Annotated[str | None, _JOINT(help="Learning rates of towers: image=1e-4.")] = None,
    sample: Annotated[str, _DATA(help="all: every row once an epoch; balanced: every class as often.")] = _DEFAULT.sample,
    patience: Annotated[int | None, _STEPS(help="Stop after so many epochs without a better evaluation; keeps the best.")] = None,
    keep_best: Annotated[bool, _STEPS("--keep-best", help="Keep the best epoch's model in OUT/best, a run itself.")] = False,
    sync_bn: Annotated[bool, _MACHINE("--sync-bn", help="Batch norms take their statistics over all processes.")] = False,
    shard: Annotated[str | None, _JOINT(help="Modalities whose text towers are cut into shards, one a process.")] = None,
    precision: Annotated[str, _MACHINE(help=", ".join(PRECISIONS))] = _DEFAULT.precision,
    device: Annotated[str, _MACHINE(help=", ".join(DEVICES))] = _DEFAULT.device,
    compile: Annotated[bool, _MACHINE("--compile", help="The networks through torch.compile; for long runs.")] = False,
    recompute: Annotated[bool, _MACHINE("--recompute", help="Less memory for somewhat more time; the same result.")] = False,
    seed: Annotated[int, _STEPS(help="Decides everything random.")] = _DEFAULT.seed,
    broken: Annotated[str, _DATA(help=f"Of pictures that can not be read: {', '.join(BROKEN)}.")] = _DEFAULT.broken,
    workers: Annotated[int | None, _DATA(help="Processes that read rows; changes no result.")] = None,
    checkpoint_every: Annotated[int | None, _SAFETY(help="Steps between checkpoints; one an epoch by default.")] = None,
    nonfinite: Annotated[str, _SAFETY(help="A step without a finite loss or gradient: stop, or skip it.")] = _DEFAULT.nonfinite,
    deterministic: Annotated[bool, _MACHINE("--deterministic", help="The same bits every time on a GPU too; slower.")] = False,
    log: Annotated[str | None, _SAFETY(help=f"Curves beside metrics.jsonl: {', '.join(TRACKERS)}; several with commas.")] = None,
    find_lr: Annotated[bool, _STEPS("--find-lr", help="Do not train: suggest a learning rate; --out gets a picture.")] = False,
    resume: Annotated[bool, _SAFETY("--resume", help="Go on where the run in --out stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a classifier, or a joint embedding.

    zoo train effnet_cbam_b0 --data digits --epochs 5 --out runs/digits
    zoo train image=effnet_cbam_b0 text=transformer --data glyphs --out runs/glyphs
    """
    if out is None and not find_lr:
        raise ValueError("Missing option '--out': a directory for the run, such as runs/first")
    if teacher is None and (distill_alpha is not None or distill_temperature is not None):
        raise ValueError("distill-alpha and distill-temperature are about a teacher: give --teacher as well")
    towers = parse_model(model)
    classifier: dict[str, Any] = {"smoothing": smoothing, "mixup": mixup, "cutmix": cutmix, "teacher": teacher}
    classifier |= {"distill_alpha": distill_alpha, "distill_temperature": distill_temperature}
    joint = {"head": head, "embed_dim": embed_dim, "loss": loss, "pairs": pairs, "weights": weights, "tower_lr": tower_lr}
    kind, mine, other = ("a classifier", classifier, joint) if isinstance(towers, str) else ("a joint embedding", joint, classifier)
    if foreign := [f"--{name.replace('_', '-')}" for name, value in other.items() if value is not None]:
        raise ValueError(f"{' '.join(model)} is {kind}; it has no {' or '.join(foreign)}")
    own: dict[str, Any] = {name: value for name, value in mine.items() if value is not None}
    frozen = [word for word in (freeze or "").split(",") if word]
    if isinstance(towers, dict):
        own |= parse_joint(towers, own, [word for word in frozen if word != "bn"])
    else:
        own["freeze"] = [word for word in frozen if word != "bn"]
    for name, words in (("mean", mean), ("std", std)):
        if words is not None:
            own[name] = parse_channels(name, words)
    rates = own.pop("tower_lr", None)
    config = TrainConfig(
        out=out,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        part_lr=rates,
        layer_decay=layer_decay,
        opt=opt,
        sched=sched,
        warmup=warmup,
        weight_decay=weight_decay,
        clip_grad=clip_grad,
        ema=ema,
        unfreeze_at=unfreeze_at,
        hand_over=hand_over,
        sample=sample,
        patience=patience,
        keep_best=keep_best,
        sync_bn=sync_bn,
        shard=tuple(word for word in (shard or "").split(",") if word),
        precision=precision,
        device=device,
        seed=seed,
        broken=broken,
        compile=compile,
        recompute=recompute,
        workers=workers,
        checkpoint_every=checkpoint_every,
        nonfinite=nonfinite,
        deterministic=deterministic,
        log=tuple(word for word in (log or "").split(",") if word),
        resume=resume,
        overwrite=overwrite,
    )
    opened = open_data(data, broken=broken != "raise")
    seed_everything(seed)
    task = create_task(
        towers,
        opened,
        img_size=img_size,
        augment=augment,
        pretrained=pretrained,
        init=init,
        drop_path=drop_path,
        freeze_bn="bn" in frozen,
        **own,
    )
    parameters = sum(parameter.numel() for parameter in task.trainable_module.parameters())
    rows = f"{len(opened.train)} rows, {len(opened.eval)} to evaluate on"
    console.print(f"{' '.join(model)}: {parameters / 1e6:.1f} M parameters; {data}: {rows}", highlight=False, soft_wrap=True)
    if find_lr:
        curve = measure_lr(task, opened.train, config)
        if out is not None:
            curve.save(Path(out))
        if as_json:
            print(json.dumps({"suggestion": curve.suggestion, "lr": list(curve.lr), "loss": list(curve.smooth)}, indent=2))
            return
        shown = list(zip(curve.lr, curve.smooth, strict=True))[::10]
        print_table("learning rate", ["lr", "loss"], [[f"{lr:.1e}", f"{loss:.3f}"] for lr, loss in shown])
        told = f"--lr {curve.suggestion:.1e}" if curve.suggestion else "none: the loss never fell"
        console.print(f"suggested: {told}", highlight=False, soft_wrap=True)
        return
    try:
        metrics = fit(task, opened.train, opened.eval, config, about={"data": opened.name})
    except Stopped:
        leave()
        raise
    leave()
    if as_json and os.environ.get("RANK", "0") == "0":
        print(json.dumps({"run": out, **metrics}, indent=2))
    console.print(f"{task.metric} {metrics[task.metric]:.1f} %; the run is in {out}; next: zoo eval {out}", highlight=False, soft_wrap=True)

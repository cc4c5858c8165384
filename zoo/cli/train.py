"""zoo train: a classifier from one name, a joint embedding from modality=tower pairs."""

import math
from typing import Annotated, Any

import typer

from registry import nearest

from ..build import create_task, each_of, open_data
from ..progress import console
from ..train import TrainConfig, fit
from ..train.config import DEVICES, PRECISIONS
from ..train.engine import leave
from ..train.preprocess import AUGMENTS
from ..train.randomness import seed_everything
from .app import Debug, app

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


@app.command("train")
def train(
    model: Annotated[list[str], typer.Argument(help="effnet_cbam_b0, or image=effnet_cbam_b0 text=transformer.")],
    data: Annotated[str, typer.Option(help="digits, glyphs, a folder of class folders, or a manifest (.csv .tsv .jsonl).")],
    out: Annotated[str, typer.Option(help="The run directory.")],
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.")] = _DEFAULT.epochs,
    batch_size: Annotated[int | None, typer.Option(help="Rows a micro-batch; 32 for a classifier, 64 for a joint embedding.")] = None,
    accumulate: Annotated[int, typer.Option(help="Micro-batches in one step.")] = _DEFAULT.accumulate,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate; 2e-3 for a classifier, 1e-3 for a joint embedding.")] = None,
    opt: Annotated[str, typer.Option(help="Any optimizer of timm.")] = _DEFAULT.opt,
    sched: Annotated[str, typer.Option(help="cosine, tanh, step or constant.")] = _DEFAULT.sched,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the learning rate rises.")] = _DEFAULT.warmup,
    weight_decay: Annotated[float, typer.Option(help="Not applied to biases and norms.")] = _DEFAULT.weight_decay,
    clip_grad: Annotated[float | None, typer.Option(help="Greatest norm of the gradient.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the weights' running average, such as 0.999.")] = None,
    hand_over: Annotated[float, typer.Option(help="Of a network with grafted gates: share of the steps over which they take over.")] = (
        _DEFAULT.hand_over
    ),
    img_size: Annotated[int | None, typer.Option(help="Pixels; what suits the data or the model by default.")] = None,
    augment: Annotated[str | None, typer.Option(help=f"{', '.join(AUGMENTS)}; what suits the data by default.")] = None,
    smoothing: Annotated[float | None, typer.Option(help="Label smoothing of a classifier; 0.1 by default.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Mixup alpha of a classifier; none by default.")] = None,
    cutmix: Annotated[float | None, typer.Option(help="CutMix alpha of a classifier; none by default.")] = None,
    drop_path: Annotated[float, typer.Option(help="Stochastic depth of the picture network.")] = 0.05,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start the picture network from timm's weights.")] = False,
    freeze: Annotated[str | None, typer.Option(help="bn: batch norms keep their statistics; modalities: their towers stay.")] = None,
    head: Annotated[str | None, typer.Option(help="Of a joint embedding: linear (default), or image=attnpool,text=mlp.")] = None,
    embed_dim: Annotated[int | None, typer.Option(help="Width of a joint embedding; 256 by default.")] = None,
    loss: Annotated[str | None, typer.Option(help="Of a joint embedding: clip (default), or image-text=clip,image-table=siglip.")] = None,
    pairs: Annotated[str | None, typer.Option(help="image-text,image-table; the first modality with each other by default.")] = None,
    weights: Annotated[str | None, typer.Option(help="Factors of the pairs' losses: image-text=1,image-table=0.5.")] = None,
    tower_lr: Annotated[str | None, typer.Option(help="Learning rates of towers: image=1e-4.")] = None,
    sync_bn: Annotated[bool, typer.Option("--sync-bn", help="Batch norms take their statistics over all processes.")] = False,
    shard: Annotated[str | None, typer.Option(help="Modalities whose text towers are cut into shards, one a process.")] = None,
    precision: Annotated[str, typer.Option(help=", ".join(PRECISIONS))] = _DEFAULT.precision,
    device: Annotated[str, typer.Option(help=", ".join(DEVICES))] = _DEFAULT.device,
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = _DEFAULT.seed,
    workers: Annotated[int | None, typer.Option(help="Processes that read rows; changes no result.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints; one an epoch by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    debug: Debug = False,
) -> None:
    """Train a classifier, or a joint embedding.

    zoo train effnet_cbam_b0 --data digits --epochs 5 --out runs/digits
    zoo train image=effnet_cbam_b0 text=transformer --data glyphs --out runs/glyphs
    """
    towers = parse_model(model)
    classifier = {"smoothing": smoothing, "mixup": mixup, "cutmix": cutmix}
    joint = {"head": head, "embed_dim": embed_dim, "loss": loss, "pairs": pairs, "weights": weights, "tower_lr": tower_lr}
    kind, mine, other = ("a classifier", classifier, joint) if isinstance(towers, str) else ("a joint embedding", joint, classifier)
    if foreign := [f"--{name.replace('_', '-')}" for name, value in other.items() if value is not None]:
        raise ValueError(f"{' '.join(model)} is {kind}; it has no {' or '.join(foreign)}")
    own: dict[str, Any] = {name: value for name, value in mine.items() if value is not None}
    frozen = [word for word in (freeze or "").split(",") if word]
    if isinstance(towers, dict):
        own |= parse_joint(towers, own, [word for word in frozen if word != "bn"])
    elif wrong := [word for word in frozen if word != "bn"]:
        raise ValueError(f"freeze: expected bn, got {wrong[0]!r}")
    rates = own.pop("tower_lr", None)
    config = TrainConfig(
        out=out,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        part_lr=rates,
        opt=opt,
        sched=sched,
        warmup=warmup,
        weight_decay=weight_decay,
        clip_grad=clip_grad,
        ema=ema,
        hand_over=hand_over,
        sync_bn=sync_bn,
        shard=tuple(word for word in (shard or "").split(",") if word),
        precision=precision,
        device=device,
        seed=seed,
        workers=workers,
        checkpoint_every=checkpoint_every,
        resume=resume,
        overwrite=overwrite,
    )
    opened = open_data(data)
    seed_everything(seed)
    task = create_task(
        towers,
        opened,
        img_size=img_size,
        augment=augment,
        pretrained=pretrained,
        drop_path=drop_path,
        freeze_bn="bn" in frozen,
        **own,
    )
    parameters = sum(parameter.numel() for parameter in task.parameters())
    rows = f"{len(opened.train)} rows, {len(opened.eval)} to evaluate on"
    console.print(f"{' '.join(model)}: {parameters / 1e6:.1f} M parameters; {data}: {rows}", highlight=False, soft_wrap=True)
    metrics = fit(task, opened.train, opened.eval, config, about={"data": opened.name})
    leave()
    console.print(f"{task.metric} {metrics[task.metric]:.1f} %; the run is in {out}; next: zoo eval {out}", highlight=False, soft_wrap=True)

"""Names of towers, heads and losses to a joint embedding."""

import functools
import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import timm
import torch
from torch import nn

from registry import HEADS, LOSSES, TOWERS, nearest

from ..joint import NAMES, JointEmbedding, Loss, can_give, reads, width_for
from ..towers.tokenizer import Tokenizer
from .model import create_model
from .options import check_options, is_of, made, named

_VOCABULARY = 8192


def _loss(choice: str | Loss) -> Loss:
    if not isinstance(choice, str):
        return choice
    name, given, options = named(choice)
    function: Any = LOSSES[name]
    check_options("loss", choice, given, options, function, skip=("a", "b", "logit_scale", "logit_bias", "ids"))
    if not options:
        return function
    chosen: Any = functools.partial(function, **options)
    chosen.init_logit_scale, chosen.init_logit_bias = function.init_logit_scale, function.init_logit_bias
    if during := getattr(function, "during", None):
        chosen.during = lambda progress: {key: value for key, value in during(progress).items() if key not in options}
    made(
        "loss", choice, chosen, torch.eye(2), torch.eye(2), logit_scale=torch.ones(1), logit_bias=torch.zeros(1)
    )  # a wrong value is told now
    return chosen


def is_picture(modality: str, tower: str | nn.Module) -> bool:
    if isinstance(tower, nn.Module):
        return modality == "image" or hasattr(tower, "pretrained_cfg")  # what timm's models carry
    return tower.partition(":")[0] not in TOWERS


def _tower(modality: str, tower: str | nn.Module, values: Iterable[Any] | None, options: Mapping[str, Any]) -> nn.Module:
    if isinstance(tower, nn.Module):
        if classes := getattr(tower, "num_classes", 0):
            raise ValueError(f"{modality}: the network still has its classifier, of {classes} classes; make it with num_classes=0")
        return tower
    name, given, own = named(tower)
    if name not in TOWERS:
        if modality in ("text", "table", "vector", "audio"):
            if timm.is_model(name.partition(".")[0]):
                raise ValueError(f"{modality}={tower}: a timm model reads pictures; known towers: {', '.join(sorted(TOWERS))}")
            return TOWERS[name]  # raises, with the nearest names
        return create_model(tower, num_classes=0, **options)
    if modality == "image":
        kind = getattr(TOWERS[name], "reads", "text")
        raise ValueError(f"image={tower}: {name!r} is a tower for {kind}; a picture's tower is any timm model, such as effnet_cbam_b0")
    cls: Any = TOWERS[name]
    own = {**own, **options}
    fits = values is not None and hasattr(cls, "fit")
    check_options("tower", tower, given, own, *([cls, cls.fit] if fits else [cls]), skip=("tokenizer", "values", "folder"))
    parameters = inspect.signature(cls).parameters
    needed = [key for key, each in parameters.items() if each.kind is each.KEYWORD_ONLY and each.default is each.empty and key not in own]
    if values is None and hasattr(cls, "fit") and needed:
        raise ValueError(f"{modality}={tower}: {' and '.join(needed)} are learned from training values: give values={{{modality!r}: ...}}")
    if "tokenizer" in parameters:
        own["tokenizer"] = Tokenizer.bytes() if values is None else Tokenizer.train(values, _VOCABULARY)
    elif fits:
        return made("tower", tower, cls.fit, values, *given, **own)
    return made("tower", tower, cls, *given, **own)


def _head(choice: str | nn.Module, tower: nn.Module, embed_dim: int, *, asked: bool) -> nn.Module:
    """The head of a tower; where one is asked for all towers, those without a map get `linear` for one that reads maps."""
    if isinstance(choice, nn.Module):
        return choice
    name, given, options = named(choice)
    cls: Any = HEADS[name]
    if not can_give(tower, reads(cls)):
        if asked:
            raise ValueError(f"head {choice!r} reads {NAMES[reads(cls)]}, and {type(tower).__name__} has none; take linear or mlp")
        choice, cls, given, options = "linear", HEADS["linear"], [], {}
    check_options("head", choice, given, options, cls, skip=("in_features", "embed_dim"))
    return made("head", choice, cls, width_for(tower, reads(cls)), embed_dim, *given, **options)


def create_joint(
    towers: Mapping[str, str | nn.Module],
    *,
    head: str | Mapping[str, str | nn.Module] = "linear",
    embed_dim: int = 256,
    loss: str | Loss | Mapping[str, str | Loss] = "clip",
    pairs: Sequence[tuple[str, str]] | None = None,
    weights: Mapping[str, float] | None = None,
    frozen: Collection[str] = (),
    values: Mapping[str, Iterable[Any]] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 256,
) -> JointEmbedding:
    """A joint embedding from names (or modules with `num_features`), one tower a modality. A name may carry options: "mlp:width=64".

    Args:
        towers: modality -> an entry of TOWERS, or a timm model (a run directory too) for pictures.
        head, embed_dim: entry of HEADS from the towers' features to the joint space, one for all or one a modality, and its width. One
            for all that reads feature maps is `linear` for the towers that have none.
        loss: entry of LOSSES, one for all or one a pair, as {"image-text": "clip"}.
        pairs: modalities to bring together; the first with each other by default.
        weights: factors of the pairs' losses, as {"image-text": 2.0}.
        frozen: modalities whose tower stays as it is.
        values: modality -> raw values to learn a vocabulary or statistics from: of the training split, no other. Without any, text is read
            byte by byte.
        options: more arguments of a modality's tower, such as {"image": {"pretrained": True}, "text": {"depth": 2}}.
        batch_size: that the loss will see; decides the start of SigLIP's bias.

    Raises:
        KeyError, UnknownModel: a name that is not registered; the nearest are offered.
        ValueError: a tower that does not fit its modality, or an option that it does not have.
    """
    options, values = options or {}, values or {}
    if unknown := sorted(options.keys() - towers.keys()):
        raise ValueError(f"options for {', '.join(unknown)}: there is no such tower; towers are for {', '.join(towers)}")
    if isinstance(head, Mapping) and (unknown := sorted(head.keys() - towers.keys())):
        raise ValueError(f"a head for {unknown[0]!r}: there is no such tower; {nearest(unknown[0], list(towers))}")
    if not is_of(int, embed_dim):
        raise ValueError(f"embed_dim: expected at least 1, got {embed_dim!r}")
    if not isinstance(head, str | Mapping):
        raise ValueError(f"head: expected a name, or a name or a module for each modality, got {head!r}")
    losses = {pair: _loss(each) for pair, each in loss.items()} if isinstance(loss, Mapping) else _loss(loss)
    for each in head.values() if isinstance(head, Mapping) else [head]:
        _ = isinstance(each, str) and HEADS[named(each)[0]]  # an unknown name before anything is built
    built = {name: _tower(name, tower, values.get(name), options.get(name, {})) for name, tower in towers.items()}
    chosen = dict(head) if isinstance(head, Mapping) else dict.fromkeys(towers, head)
    asked = set(head) if isinstance(head, Mapping) else set()
    heads = {name: _head(chosen.get(name, "linear"), tower, embed_dim, asked=name in asked) for name, tower in built.items()}
    return JointEmbedding(built, heads, loss=losses, pairs=pairs, weights=weights, frozen=frozen, batch_size=batch_size)

"""Towers by modality and the data that they read to the task that trains them together."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from registry import LOSSES, TOWERS, nearest

from ..datasets import Data, read_picture
from ..datasets.data import Row
from ..joint import JointEmbedding, Loss, check_pairs
from ..progress import tracked
from ..train import Align, Preprocess
from ..train.modalities import raw_value
from .joint import create_joint, is_picture


def _stacked(pictures: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(pictures)


def as_task(
    joint: Any,
    description: Mapping[str, Any],
    preprocess: Mapping[str, Preprocess],
    tables: Mapping[str, Sequence[str]],
    freeze_bn: bool,
) -> Align:
    prepare = {name: _stacked if name in preprocess else tower.prepare for name, tower in joint.towers.items()}
    return Align(joint, prepare=prepare, preprocess=preprocess, description=description, tables=tables, freeze_bn=freeze_bn)


def _tables(towers: Mapping[str, Any], data: Data) -> dict[str, tuple[str, ...]]:
    """The columns of each modality that is no column itself: a table takes those that nobody else does.

    Raises:
        ValueError: a modality that the data does not have.
    """
    free = tuple(
        column
        for column in data.train.columns
        if column not in towers and column not in ("image", "text", "label", "labels", "id", "index")
    )
    found = {}
    for name, tower in towers.items():
        if name in ("label", "labels"):
            raise ValueError(f"{name} is what a classifier learns, and no modality; its words belong into a column of their own")
        if name in ("id", "index"):
            raise ValueError(f"{name} says which row it is, and is no modality; a column of your own needs another name")
        if name in data.columns:
            continue
        kind = tower if isinstance(tower, type | nn.Module) else TOWERS.get(tower.partition(":")[0])
        if getattr(kind, "reads", "") != "table" or not free:
            known = ", ".join(data.columns)
            raise ValueError(f"{data.name} has {known}; there is no {name} to train a tower on; {nearest(name, list(data.columns))}")
        found[name] = free
    return found


def create_align(
    model: Mapping[str, str | nn.Module],
    data: Data,
    *,
    img_size: int | None,
    augment: str,
    image_options: Mapping[str, Any],
    pretrained: bool,
    drop_path: float,
    model_options: Mapping[str, Any] | None,
    freeze_bn: bool,
    head: str | Mapping[str, str | nn.Module],
    embed_dim: int,
    loss: str | Loss | Mapping[str, str | Loss],
    pairs: Sequence[tuple[str, str]] | None,
    weights: Mapping[str, float] | None,
    frozen: Collection[str],
) -> Align:
    for name, tower in model.items():
        if not isinstance(tower, str | nn.Module):
            raise ValueError(f"{name}: expected a name or a module, got {tower!r}")
        if not is_picture(name, tower) and isinstance(tower, nn.Module) and not callable(getattr(tower, "prepare", None)):
            raise ValueError(
                f"{name}: {type(tower).__name__} has no `prepare`, which makes a tensor of raw values, as registry.TOWERS asks"
            )
    tables = _tables(model, data)
    pictures = [name for name, tower in model.items() if is_picture(name, tower)]
    check_pairs(pairs or (), tuple(model))
    if pairs is not None and (alone := [name for name in model if not any(name in pair for pair in pairs)]):
        raise ValueError(f"{alone[0]} is in no pair and would learn nothing; pairs are {', '.join('-'.join(pair) for pair in pairs)}")
    seen = {name: tracked(data.train.without_pictures(), len(data.train), f"look at {name}") for name in model if name not in pictures}
    values = {name: _values(rows, name, tables) for name, rows in seen.items()}
    options = {name: image_options for name in pictures if isinstance(model[name], str)}
    joint: Any = create_joint(
        model,
        head=head,
        embed_dim=embed_dim,
        loss=loss,
        pairs=pairs,
        weights=weights,
        frozen=frozen,
        values=values,
        options=options,
    )
    preprocess = {name: Preprocess.of(joint.towers[name], img_size=img_size, augment=augment) for name in pictures}
    for name in tables:  # a row without any of the columns that its tower reads has no table
        tables[name] = getattr(joint.towers[name], "columns", tables[name])
    _try(joint, preprocess, {name: _values(data.train.without_pictures(), name, tables) for name in model})
    for name, columns in tables.items():
        try:
            joint.towers[name].prepare([raw_value(row, name, columns) or {} for row in data.eval.without_pictures()])
        except ValueError as error:
            raise ValueError(f"the eval rows: {error}") from error

    def shown(choice: Any, known: Mapping[str, Any]) -> Any:
        if isinstance(choice, Mapping):
            return {key: shown(each, known) for key, each in choice.items()}
        if isinstance(choice, str):
            return choice
        name = next((name for name, each in known.items() if each in (choice, type(choice))), None)
        return name or f"<{getattr(choice, '__name__', type(choice).__name__)}>"

    description = {
        "towers": shown(model, TOWERS.loaded()),
        "tower_options": {name: getattr(tower, "config", {}) for name, tower in joint.towers.items() if name not in pictures},
        "tokenizers": {name: tower.tokenizer.digest for name, tower in joint.towers.items() if hasattr(tower, "tokenizer")},
        "head": shown(head, {}),
        "embed_dim": embed_dim,
        "loss": shown(loss, LOSSES.loaded()),
        "pairs": [list(pair) for pair in joint.pairs],
        "weights": dict(joint.weights),
        "frozen": sorted(frozen),
        "tables": {name: list(columns) for name, columns in tables.items()},
        "pretrained": pretrained,
        "drop_path": drop_path,
        "model_options": dict(model_options or {}),
    }
    return as_task(joint, description, preprocess, tables, freeze_bn)


@torch.no_grad()
def _try(joint: JointEmbedding, preprocess: Mapping[str, Preprocess], values: Mapping[str, Iterator[Any]]) -> None:
    """One value of each modality through tower and head, so that what does not fit is told before anything is written.

    Raises:
        ValueError: it does not go through.
    """
    joint.eval()
    for name, tower in joint.towers.items():
        first: Any = next(values[name], None)
        try:
            if name not in preprocess:
                x = None if first is None else tower.prepare([first])  # type: ignore[operator]
            else:
                if isinstance(first, str | Path):
                    read_picture(first)
                x = torch.zeros(1, *preprocess[name].input_size)
            if x is not None:
                joint.project(name, joint.features(name, x.to(next(joint.parameters()).device)))
        except (ValueError, TypeError, AssertionError, ArithmeticError, LookupError, RuntimeError) as error:
            raise ValueError(f"{name}: {error}") from error
    joint.train()


def _values(rows: Iterable[Row], name: str, tables: Mapping[str, Sequence[str]]) -> Iterator[Any]:
    """The raw values of a modality that are there, one by one."""
    for row in rows:
        if (value := raw_value(row, name, tables.get(name, ()))) is not None:
            yield value

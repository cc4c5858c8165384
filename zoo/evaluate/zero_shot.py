"""Zero-shot classification: a picture belongs to the class whose name, put into sentences, is nearest to it.

    w_c = normalise(mean over templates t of normalise(text(t with c in it)));   class(x) = argmax_c <image(x), w_c>

No classifier is trained: that is what the joint space is for. Several templates make the name's embedding less a matter of one wording.
A tie counts against the model, as in `retrieval`.

CLIP: Radford et al., arXiv 2103.00020, section 3.1.
"""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..progress import tracked

TEMPLATES = (
    "{}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "a close-up of a {}.",
    "a small {}, seen from afar.",
    "this is what a {} looks like.",
)


def read_templates(path: str | PathLike[str]) -> tuple[str, ...]:
    """One template a line, with {} where the class name goes; empty lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line without {}, or no line at all.
    """
    lines = [(number, line.strip()) for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1)]
    templates = tuple(line for _, line in lines if line)
    if not templates:
        raise ValueError(f"{path}: no templates; expected lines such as {TEMPLATES[1]!r}")
    for number, line in lines:
        if line and "{}" not in line:
            raise ValueError(f"{path}, line {number}: {line!r} has no {{}} for the class name; expected lines such as {TEMPLATES[1]!r}")
    return templates


def class_embeddings(
    classes: Sequence[str],
    embed_text: Callable[[list[str]], Tensor],
    *,
    templates: Sequence[str] = TEMPLATES,
    batch_size: int = 256,
) -> Tensor:
    """The classes as points of the joint space, `[C, D]` of unit length, float64.

    Args:
        classes: their names; an underscore, as names of folders have it, is read as a space.
        embed_text: texts to `[B, D]`.
        templates: sentences with {} where the name goes.
        batch_size: texts at a time.

    Raises:
        ValueError: no classes or no templates, a template without {}, or a class that all of its texts together do not place.
    """
    if not classes or not templates:
        raise ValueError(f"expected classes and templates, got {len(classes)} and {len(templates)}")
    if wrong := [template for template in templates if "{}" not in template]:
        raise ValueError(f"template {wrong[0]!r} has no {{}} for the class name; expected such as {TEMPLATES[1]!r}")
    texts = [template.replace("{}", name.replace("_", " ")) for name in classes for template in templates]
    parts = [texts[first : first + batch_size] for first in range(0, len(texts), batch_size)]
    embedded = torch.cat([embed_text(part).detach().cpu().double() for part in tracked(parts, len(parts), "class names")])
    means = F.normalize(embedded, dim=-1).view(len(classes), len(templates), -1).mean(1)
    nowhere = [name for name, mean in zip(classes, means, strict=True) if not mean.norm() > 1e-6]
    if nowhere:
        raise ValueError(f"class {nowhere[0]!r}: its texts cancel out or are not finite; the text tower tells nothing about it")
    return F.normalize(means, dim=-1)


def zero_shot(images: Tensor, labels: Any, classes: Tensor, *, chunk: int = 4096) -> dict[str, Any]:
    """How many pictures are nearest to their class.

    Args:
        images: `[N, D]` of unit length.
        labels: `[N]` integers, rows of `classes`.
        classes: `[C, D]` of unit length, as `class_embeddings` makes them.
        chunk: pictures at a time: memory is chunk × C.

    Returns:
        In percent `top1`, `top5` (not for five classes or fewer, where it is 100 for anything), `mean_class_recall` (top-1 of each class
        that has pictures, averaged: a rare class counts as much as a frequent one), and `chance`, what a random guess gets.

    Raises:
        ValueError: shapes do not fit, a label is no row of `classes`, or an embedding is not finite.
    """
    labels = torch.as_tensor(labels).cpu()
    if images.ndim != 2 or not images.numel() or labels.shape != images.shape[:1]:
        raise ValueError(f"expected images [N, D] and labels [N], got {list(images.shape)} and {list(labels.shape)}")
    if classes.ndim != 2 or classes.shape[1] != images.shape[1]:
        raise ValueError(f"expected classes [C, {images.shape[1]}], got {list(classes.shape)}")
    if not images.isfinite().all():
        raise ValueError(f"{(~images.isfinite().all(1)).sum().item()} of {len(images)} images have embeddings that are not finite")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise ValueError(f"label {low if low < 0 else high} is none of {len(classes)} classes")
    columns = classes.detach().cpu().double().T
    parts = zip(images.detach().cpu().split(chunk), labels.split(chunk), strict=True)
    ranks = torch.cat([true_class_ranks((part.double() @ columns).float(), its) for part, its in parts])
    ks = (1, 5) if len(classes) > 5 else (1,)
    return {
        **{f"top{k}": 100 * (ranks <= k).double().mean().item() for k in ks},
        "mean_class_recall": mean_class_recall(ranks, labels),
        "chance": {**{f"top{k}": 100 * k / len(classes) for k in ks}, "mean_class_recall": 100 / len(classes)},
    }


def true_class_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """`[N]`: how many classes score at least as high as the true one, itself among them; logits `[N, C]`, labels `[N]`."""
    return (logits >= logits.gather(1, labels[:, None])).sum(1)


def mean_class_recall(ranks: Tensor, labels: Tensor) -> float:
    """The share of rank 1 within each class that occurs, averaged over the classes, in percent."""
    return 100 * torch.stack([(ranks[labels == label] == 1).double().mean() for label in labels.unique()]).mean().item()

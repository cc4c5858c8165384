"""What the loop trains, from a name or from towers by modality."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..datasets import Data
from ..joint import Loss
from ..train import Classify, Preprocess, Task
from .align import create_align
from .data import open_data
from .model import create_model


def _image_options(pretrained: bool, model_options: Mapping[str, Any] | None, drop_path: float) -> dict[str, Any]:
    return {"pretrained": pretrained, "drop_path_rate": drop_path, **(model_options or {})}


def create_task(
    model: str | nn.Module | Mapping[str, str | nn.Module],
    data: str | Path | Data,
    *,
    img_size: int | None = None,
    augment: str | None = None,
    pretrained: bool = False,
    drop_path: float = 0.05,
    model_options: Mapping[str, Any] | None = None,
    freeze_bn: bool = False,
    smoothing: float = 0.1,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    head: str | Mapping[str, str | nn.Module] = "linear",
    embed_dim: int = 256,
    loss: str | Loss | Mapping[str, str | Loss] = "clip",
    pairs: Sequence[tuple[str, str]] | None = None,
    weights: Mapping[str, float] | None = None,
    frozen: Collection[str] = (),
) -> Task:
    """What the loop trains: a classifier for one model, a joint embedding for {modality: tower}.

    Args:
        model: a timm name, a network from timm, or {modality: name or module}.
        data: what it will be trained on: decides classes, vocabulary, and the default picture size and augmentation.
        img_size: pixels; by default what the data asks for, or the model was made for.
        augment: "none", "shift", "draw", "crop" or "rand"; by default what suits the data.
        pretrained: start the pictures' network from timm's weights.
        drop_path: stochastic depth of that network.
        model_options: more arguments for it, such as {"attn_stages": {4: "cbam"}}.
        freeze_bn: batch norms keep their statistics.
        smoothing, mixup, cutmix: for a classifier.
        head, embed_dim, loss, pairs, weights, frozen: for a joint embedding, as in `create_joint`.

    Raises:
        KeyError, UnknownModel: an unknown name; the nearest are offered.
        ValueError: model and data do not fit.
    """
    data = open_data(data)
    size = data.img_size if img_size is None else img_size
    augment = augment or data.augment
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path: expected a share in [0, 1), got {drop_path}")
    image_options = _image_options(pretrained, model_options, drop_path)
    if isinstance(model, Mapping):
        return create_align(
            model,
            data,
            img_size=size,
            augment=augment,
            image_options=image_options,
            pretrained=pretrained,
            drop_path=drop_path,
            model_options=model_options,
            freeze_bn=freeze_bn,
            head=head,
            embed_dim=embed_dim,
            loss=loss,
            pairs=pairs,
            weights=weights,
            frozen=frozen,
        )
    if data.classes is None:
        offer = ", ".join(f"{column}=..." for column in data.columns)
        raise ValueError(f"{data.name} has no labels to classify; train a joint embedding on it: {offer}")
    if len(data.classes) < 2:
        raise ValueError(f"{data.name} has one class ({data.classes[0]}); a classifier needs two or more to tell apart")
    network: Any = model
    if isinstance(model, str):
        network = create_model(model, num_classes=len(data.classes), **image_options)
    return Classify(
        network,
        name=model if isinstance(model, str) else network.pretrained_cfg.get("architecture", type(network).__name__),
        preprocess=Preprocess.of(network, img_size=size, augment=augment),
        classes=data.classes,
        smoothing=smoothing,
        mixup=mixup,
        cutmix=cutmix,
        freeze_bn=freeze_bn,
        multi_label=data.multi_label,
        options={"pretrained": pretrained, "drop_path": drop_path, "model_options": dict(model_options or {})},
    )

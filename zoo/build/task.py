"""What the loop trains, from a name or from towers by modality."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..compress import Distill
from ..datasets import Data
from ..joint import Loss
from ..train import Classify, Preprocess, Task
from .align import create_align
from .data import open_data
from .init import create_initialised
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
    init: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    drop_path: float = 0.05,
    model_options: Mapping[str, Any] | None = None,
    freeze_bn: bool = False,
    freeze: Sequence[str] = (),
    smoothing: float = 0.1,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    teacher: str | None = None,
    distill_alpha: float = 0.5,
    distill_temperature: float = 2.0,
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
        init: a file with weights of the network without its attention, or a run directory, for the pictures' network of a name; the
            attention takes over from what was there while training (build/init.py).
        mean, std: of the channels, where the weights expect others than they say.
        drop_path: stochastic depth of that network.
        model_options: more arguments for it, such as {"attn_stages": {4: "cbam"}}.
        freeze_bn: batch norms keep their statistics.
        freeze: of a classifier: parts that do not learn: "trunk", "head", or names of modules, such as "stem" and "blocks.0-3".
        smoothing, mixup, cutmix: for a classifier.
        teacher: a run directory, or a timm name with weights, of the same classes: the classifier also learns what it says (distillation).
        distill_alpha, distill_temperature: share of the teacher in the loss, and the temperature of the softmaxes.
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
    numbers: dict[str, Any] = {name: tuple(map(float, given)) for name, given in (("mean", mean), ("std", std)) if given is not None}
    if init is not None:
        if pretrained:
            raise ValueError("init and pretrained are both where the weights come from: give one")
        del image_options["pretrained"]
    if isinstance(model, Mapping):
        if teacher is not None:
            raise ValueError("teacher: distillation is for a classifier; give one model name")
        if freeze:
            raise ValueError(f"freeze: {', '.join(freeze)} is for a classifier; towers of a joint embedding are frozen by their modality")
        named = model
        if init is not None:
            tower = model.get("image")
            if not isinstance(tower, str):
                raise ValueError(f"init: weights are for the name of an image tower, got image={tower!r}")
            model = {**model, "image": create_initialised(tower, init, num_classes=0, **image_options)}
        task = create_align(
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
        if init is not None:
            task.description |= {"towers": {**task.description["towers"], "image": named["image"]}, "init": str(init)}
        task.preprocess |= {name: replace(each, **numbers) for name, each in task.preprocess.items()}
        return task
    if data.classes is None:
        offer = ", ".join(f"{column}=..." for column in data.columns)
        raise ValueError(f"{data.name} has no labels to classify; train a joint embedding on it: {offer}")
    if len(data.classes) < 2:
        raise ValueError(f"{data.name} has one class ({data.classes[0]}); a classifier needs two or more to tell apart")
    network: Any = model
    if init is not None:
        if not isinstance(model, str):
            raise ValueError(f"init: weights are for the name of a network, got a {type(model).__name__}")
        network = create_initialised(model, init, num_classes=len(data.classes), **image_options)
    elif isinstance(model, str):
        network = create_model(model, num_classes=len(data.classes), **image_options)
    kind: Any = Classify if teacher is None else Distill
    own: dict[str, Any] = {}
    if teacher is not None:
        trained: Any = create_model(teacher, pretrained=True)
        known = trained.pretrained_cfg.get("label_names") if Path(teacher).is_dir() else None
        own = {"teacher": trained, "teacher_name": teacher, "teacher_classes": known}
        own |= {"alpha": distill_alpha, "temperature": distill_temperature}
    return kind(
        network,
        name=model if isinstance(model, str) else network.pretrained_cfg.get("architecture", type(network).__name__),
        preprocess=replace(Preprocess.of(network, img_size=size, augment=augment), **numbers),
        classes=data.classes,
        smoothing=smoothing,
        mixup=mixup,
        cutmix=cutmix,
        freeze_bn=freeze_bn,
        multi_label=data.multi_label,
        freeze=freeze,
        options={
            "pretrained": pretrained,
            "drop_path": drop_path,
            "model_options": dict(model_options or {}),
            "init": None if init is None else str(init),
        },
        **own,
    )

"""The edge: names become objects here. Below it nothing is looked up; the command line and the public names of `zoo` go through it.

open_data("digits")                                        a data string -> Data
create_task("effnet_cbam_b0", data)                        a name, or {modality: tower} -> a task for the loop
create_joint({"image": ..., "text": ...}, head="mlp")      names -> JointEmbedding
load_run("runs/x")                                         what `zoo train` left -> the task again, trained
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from registry import DATASETS, HEADS, LOSSES, TOWERS, nearest

from .datasets import Data, read_folder, read_manifest
from .joint import JointEmbedding
from .progress import tracked
from .towers.tokenizer import Tokenizer
from .train import Align, Classify, Preprocess, Task

_MANIFESTS = (".csv", ".tsv", ".jsonl")
_VOCABULARY = 8192
_JOINT = ("towers", "tower_options", "tokenizers", "head", "embed_dim", "loss", "pairs", "pretrained", "drop_path", "model_options")


class UnknownModel(ValueError):
    """A name that timm does not know; the message offers the nearest."""


def open_data(data: str | Path | Data) -> Data:
    """Open what a data string names: a registered name, a folder of class folders, or a manifest file.

    A registered name may carry options: "glyphs:characters=200".

    Raises:
        KeyError: neither a registered name nor a path; the nearest names are offered.
        ValueError, FileNotFoundError: what is wrong with the folder or the manifest, with file and line.
    """
    if isinstance(data, Data):
        return data
    if not str(data):
        raise ValueError(f"data: expected a name ({', '.join(sorted(DATASETS))}), a folder or a manifest, got ''")
    name, _, options = str(data).partition(":")
    if name in DATASETS:
        given = dict(each.partition("=")[::2] for each in options.split(",") if each)
        if wrong := [f"{key}={value}" for key, value in given.items() if not value.removeprefix("-").isdecimal()]:
            raise ValueError(f"data {str(data)!r}: {wrong[0]} is no number; expected options such as glyphs:characters=200")
        try:
            return DATASETS[name](**{key: int(value) for key, value in given.items()})
        except (TypeError, ValueError) as error:
            raise ValueError(f"data {str(data)!r}: {error}; expected options such as glyphs:characters=200") from error
    path = Path(data)
    if path.suffix.lower() in _MANIFESTS:
        return read_manifest(path)
    if path.is_dir():
        return read_folder(path)
    if path.exists():
        raise ValueError(f"data {path}: expected a folder of class folders or a manifest ({', '.join(_MANIFESTS)})")
    if path.name == str(data) and not path.suffix:
        return DATASETS[str(data)]  # raises, with the nearest names
    raise FileNotFoundError(f"data {path}: no such folder or file; registered names: {', '.join(sorted(DATASETS))}")


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """`timm.create_model`, with the nearest names for one that it does not know; a run directory is a name as well: the trained network.

    Raises:
        UnknownModel: timm has no such model.
        ValueError: timm has no such weights, or they do not fit.
    """
    if "/" in name and Path(name).is_dir() or (Path(name) / "config.json").is_file():
        name, kwargs = f"local-dir:{name}", {**kwargs, "pretrained": True}
    bare = name.partition(".")[0]
    if ":" not in name and not timm.is_model(bare):
        raise UnknownModel(f"unknown model {bare!r}; {nearest(bare, timm.list_models())}")
    try:
        return timm.create_model(name, **kwargs)
    except RuntimeError as error:  # no such tag, no weights for it, or weights of another network
        raise ValueError(str(error)) from error


def _tokenizer(captions: Iterable[str] | None) -> Tokenizer:
    return Tokenizer.bytes() if captions is None else Tokenizer.train(captions, _VOCABULARY)


def _tower(modality: str, tower: str | nn.Module, tokenizer: Tokenizer | None, options: Mapping[str, Any]) -> nn.Module:
    if isinstance(tower, nn.Module):
        return tower
    if modality == "image":
        if tower in TOWERS:
            raise ValueError(f"image={tower}: {tower!r} is a tower for text; a picture's tower is any timm model, such as effnet_cbam_b0")
        return create_model(tower, num_classes=0, **options)
    if tower not in TOWERS and timm.is_model(tower.partition(".")[0]):
        raise ValueError(f"{modality}={tower}: a timm model reads pictures; known towers: {', '.join(sorted(TOWERS))}")
    return TOWERS[tower](tokenizer=tokenizer, **options)


def create_joint(
    towers: Mapping[str, str | nn.Module],
    *,
    head: str = "linear",
    embed_dim: int = 256,
    loss: str = "clip",
    pairs: Sequence[tuple[str, str]] | None = None,
    captions: Iterable[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 256,
) -> JointEmbedding:
    """A joint embedding from names (or modules with `num_features`), one tower a modality.

    Args:
        towers: modality -> a timm model for `image`, an entry of TOWERS for anything else.
        head, embed_dim: entry of HEADS from the towers' features to the joint space, and its width.
        loss: entry of LOSSES.
        pairs: modalities to bring together; the first with each other by default.
        captions: texts to learn the vocabulary from: of the training split, no other. Without any, text is read byte by byte.
        options: more arguments of a modality's tower, such as {"image": {"pretrained": True}, "text": {"depth": 2}}.
        batch_size: that the loss will see; decides the start of SigLIP's bias.

    Raises:
        KeyError, UnknownModel: a name that is not registered; the nearest are offered.
        ValueError: a tower that does not fit its modality.
    """
    options = options or {}
    if unknown := sorted(options.keys() - towers.keys()):
        raise ValueError(f"options for {', '.join(unknown)}: there is no such tower; towers are for {', '.join(towers)}")
    make_head, make_loss = HEADS[head], LOSSES[loss]
    if embed_dim < 1:
        raise ValueError(f"embed_dim: expected at least 1, got {embed_dim}")
    tokenizer = _tokenizer(captions) if any(name != "image" for name in towers) else None
    built = {name: _tower(name, tower, tokenizer, options.get(name, {})) for name, tower in towers.items()}
    heads = {name: make_head(tower.num_features, embed_dim) for name, tower in built.items()}
    return JointEmbedding(built, heads, loss=make_loss, pairs=pairs, batch_size=batch_size)


def _stacked(pictures: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(pictures)


def _image_options(pretrained: bool, model_options: Mapping[str, Any] | None, drop_path: float) -> dict[str, Any]:
    return {"pretrained": pretrained, "drop_path_rate": drop_path, **(model_options or {})}


def _align(joint: Any, description: Mapping[str, Any], *, img_size: int | None, augment: str, freeze_bn: bool) -> Align:
    image = joint.towers["image"]
    prepare = {name: _stacked if name == "image" else tower.prepare for name, tower in joint.towers.items()}
    preprocess = Preprocess.of(image, img_size=img_size, augment=augment)
    return Align(joint, prepare=prepare, preprocess=preprocess, description=description, freeze_bn=freeze_bn)


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
    head: str = "linear",
    embed_dim: int = 256,
    loss: str = "clip",
) -> Task:
    """What the loop trains: a classifier for one model, a joint embedding for {modality: tower}.

    Args:
        model: a timm name, a network from timm, or {modality: name or module}.
        data: what it will be trained on: decides classes, vocabulary, and the default picture size and augmentation.
        img_size: pixels; by default what the data asks for, or the model was made for.
        augment: "none", "shift", "crop" or "rand"; by default what suits the data.
        pretrained: start the pictures' network from timm's weights.
        drop_path: stochastic depth of that network.
        model_options: more arguments for it, such as {"attn_stages": {4: "cbam"}}.
        freeze_bn: batch norms keep their statistics.
        smoothing, mixup, cutmix: for a classifier.
        head, embed_dim, loss: for a joint embedding.

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
        if "image" not in model:
            raise ValueError(f"towers for {', '.join(model)}: a joint embedding needs an image tower, such as image=effnet_cbam_b0")
        missing = [modality for modality in model if modality not in data.columns]
        if missing:
            raise ValueError(f"{data.name} has {', '.join(data.columns)}; there is no {', '.join(missing)} to train a tower on")
        captions = None
        if "text" in model:
            captions = [text for text in tracked(data.train.texts(), len(data.train), "read captions") if text]
        options = {"image": image_options} if isinstance(model["image"], str) else {}
        joint: Any = create_joint(model, head=head, embed_dim=embed_dim, loss=loss, captions=captions, options=options)
        description = {
            "towers": {name: tower if isinstance(tower, str) else type(tower).__name__ for name, tower in model.items()},
            "tower_options": {name: tower.config for name, tower in joint.towers.items() if name != "image"},
            "tokenizers": {name: tower.tokenizer.digest for name, tower in joint.towers.items() if name != "image"},
            "head": head,
            "embed_dim": embed_dim,
            "loss": loss,
            "pairs": [list(pair) for pair in joint.pairs],
            "pretrained": pretrained,
            "drop_path": drop_path,
            "model_options": dict(model_options or {}),
        }
        return _align(joint, description, img_size=size, augment=augment, freeze_bn=freeze_bn)
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
        options={"pretrained": pretrained, "drop_path": drop_path, "model_options": dict(model_options or {})},
    )


@dataclass(frozen=True)
class Run:
    """A run directory, opened.

    Args:
        path: where it is.
        task: what was trained, with its weights.
        settings: how it was trained, with "data", the data string.
    """

    path: Path
    task: Task
    settings: dict[str, Any]

    def open_data(self, data: str | Path | None = None) -> Data:
        """The data it was trained on, or other data of the same classes.

        Raises:
            ValueError: the run does not know its data, or the classes are others.
        """
        named = data or self.settings.get("data")
        if not named:
            raise ValueError(f"{self.path} does not say what it was trained on: give --data")
        opened = open_data(named)
        if isinstance(self.task, Classify) and opened.classes is not None and tuple(opened.classes) != self.task.classes:
            mine, theirs = ", ".join(self.task.classes[:8]), ", ".join(opened.classes[:8])
            raise ValueError(
                f"{named} has other classes than the run: expected {len(self.task.classes)} ({mine}), got {len(opened.classes)} ({theirs})"
            )
        return opened


def load_run(path: str | Path) -> Run:
    """Open what `zoo train` left in a directory.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: the directory is no run, or a file of it is missing or damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"run {path}: no such directory")
    try:
        config = json.loads((path / "config.json").read_text())
        settings = config["zoo"]
        kind = settings["task"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a run: expected a config.json written by `zoo train`") from None
    loaders = {Classify.kind: _load_classifier, Align.kind: _load_joint}
    if kind not in loaders:
        raise ValueError(f"{path}: unknown task {kind!r}; expected {' or '.join(loaders)}")
    try:
        return Run(path, loaders[kind](path, config, settings), settings)
    except (safetensors.SafetensorError, RuntimeError, OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: the run does not load: {error}") from error


def _load_classifier(path: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> Task:
    try:
        network = timm.create_model(f"local-dir:{path}", pretrained=True, drop_path_rate=settings.get("drop_path"))
    except TypeError:  # a network without stochastic depth, which was trained as an object
        network = timm.create_model(f"local-dir:{path}", pretrained=True)
    return Classify(
        network,
        name=settings["model"],
        preprocess=Preprocess.of(network, augment=settings["augment"]),
        classes=config["label_names"],
        smoothing=settings["smoothing"],
        mixup=settings["mixup"],
        cutmix=settings["cutmix"],
        freeze_bn=settings["freeze_bn"],
        options={key: settings.get(key) for key in ("pretrained", "drop_path", "model_options")},
    )


def _load_joint(path: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> Task:
    towers: dict[str, nn.Module] = {}
    for name, tower in settings["towers"].items():
        if name == "image":
            towers[name] = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=0)
            continue
        tokenizer = Tokenizer.from_json((path / f"tokenizer.{name}.json").read_text())
        if tokenizer.digest != settings["tokenizers"][name]:
            raise ValueError(f"tokenizer.{name}.json is not the one that this run was trained with")
        towers[name] = TOWERS[tower](tokenizer=tokenizer, **settings["tower_options"][name])
    heads = {name: HEADS[settings["head"]](tower.num_features, settings["embed_dim"]) for name, tower in towers.items()}
    joint = JointEmbedding(towers, heads, loss=LOSSES[settings["loss"]], pairs=[tuple(pair) for pair in settings["pairs"]])
    rest = safetensors.torch.load_file(path / "joint.safetensors")
    image = {f"towers.image.{key}": tensor for key, tensor in towers["image"].state_dict().items()}
    joint.load_state_dict({**rest, **image})
    description = {key: settings[key] for key in _JOINT}
    return _align(joint, description, img_size=None, augment=settings["augment"], freeze_bn=settings["freeze_bn"])

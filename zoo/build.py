"""The edge: names become objects here. Below it nothing is looked up; the command line and the public names of `zoo` go through it.

open_data("digits")                                        a data string -> Data
create_task("effnet_cbam_b0", data)                        a name, or {modality: tower} -> a task for the loop
create_joint({"image": ..., "text": ...}, head="mlp")      names -> JointEmbedding
load_run("runs/x")                                         what `zoo train` left -> the task again, trained
"""

import functools
import inspect
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from registry import DATASETS, HEADS, LOSSES, TOWERS, nearest

from .datasets import Data, Split, read_coco, read_flickr, read_folder, read_manifest
from .joint import JointEmbedding, Loss, features_of, reads_map
from .progress import tracked
from .towers.tokenizer import Tokenizer
from .train import Align, Classify, Preprocess, Task
from .train.align import raw_value

_MANIFESTS = (".csv", ".tsv", ".jsonl", ".parquet")
_CAPTIONS = {".json": read_coco, ".token": read_flickr, ".txt": read_flickr}
_VOCABULARY = 8192
_JOINT = (  # what a joint run says of its model
    *("towers", "tower_options", "tokenizers", "head", "embed_dim", "loss", "pairs", "weights", "frozen", "tables"),
    *("pretrained", "drop_path", "model_options"),
)


class UnknownModel(ValueError):
    """A name that timm does not know; the message offers the nearest."""


def open_data(data: str | Path | Data) -> Data:
    """Open what a data string names: a registered name, a folder of class folders, a manifest, or a caption file of COCO or Flickr.

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
    if path.is_file() and path.suffix.lower() in _CAPTIONS:
        return _CAPTIONS[path.suffix.lower()](path)
    if path.exists():
        captions = "or captions (COCO's and Karpathy's .json, Flickr's .token and captions.txt)"
        raise ValueError(f"data {path}: expected a folder of class folders, a manifest ({', '.join(_MANIFESTS)}), {captions}")
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


def named(choice: str) -> tuple[str, list[Any], dict[str, Any]]:
    """A name with its options: "triplet:margin=0.3" -> ("triplet", [], {"margin": 0.3}), "hf:DIR" -> ("hf", ["DIR"], {})."""
    name, _, rest = choice.partition(":")
    given: list[Any] = []
    options: dict[str, Any] = {}
    for word in filter(None, rest.split(",")):
        key, equals, value = word.partition("=")
        if not equals:
            given.append(word)
            continue
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = value
    return name, given, options


def each_of(choice: str, keys: Collection[str]) -> str | dict[str, str]:
    """A choice for each key, "image=attnpool,text=mlp" -> {"image": "attnpool", "text": "mlp"}; or one for all, as it is."""
    found: dict[str, str] = {}
    last = ""
    for word in choice.split(","):
        key, equals, value = word.partition("=")
        if equals and key in keys:
            found[key], last = value, key
        elif last:
            found[last] += f",{word}"  # an option of the last one
        else:
            return choice
    return found


def _made(what: str, choice: str, make: Callable[..., Any], *given: Any, **options: Any) -> Any:
    try:
        return make(*given, **options)
    except TypeError as error:
        raise ValueError(f"{what} {choice!r}: {error}; options are given as {choice.partition(':')[0]}:name=value,name=value") from error


def _loss(choice: str | Loss) -> Loss:
    if not isinstance(choice, str):
        return choice
    name, given, options = named(choice)
    function: Any = LOSSES[name]
    known = [key for key, each in inspect.signature(function).parameters.items() if each.kind is each.KEYWORD_ONLY]
    own = [key for key in known if key not in ("logit_scale", "logit_bias", "ids")]
    for word in [*given, *(key for key in options if key not in own)]:
        raise ValueError(f"loss {choice!r}: {name} has no option {word!r}; {nearest(word, own) if own else 'it has none'}")
    if not options:
        return function
    chosen: Any = functools.partial(function, **options)
    chosen.init_logit_scale, chosen.init_logit_bias = function.init_logit_scale, function.init_logit_bias
    if during := getattr(function, "during", None):
        chosen.during = lambda progress: {key: value for key, value in during(progress).items() if key not in options}
    return chosen


def _is_picture(modality: str, tower: str | nn.Module) -> bool:
    if isinstance(tower, nn.Module):
        return modality == "image" or hasattr(tower, "pretrained_cfg")  # what timm's models carry
    return tower.partition(":")[0] not in TOWERS


def _tower(modality: str, tower: str | nn.Module, values: Iterable[Any] | None, options: Mapping[str, Any]) -> nn.Module:
    if isinstance(tower, nn.Module):
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
    if "tokenizer" in inspect.signature(cls).parameters:
        own["tokenizer"] = Tokenizer.bytes() if values is None else Tokenizer.train(values, _VOCABULARY)
    elif values is not None and hasattr(cls, "fit"):
        return _made("tower", tower, cls.fit, values, *given, **own)
    return _made("tower", tower, cls, *given, **own)


def _head(choice: str | nn.Module, tower: nn.Module, embed_dim: int, *, asked: bool) -> nn.Module:
    """The head of a tower; where one is asked for all towers, those without a map get `linear` for one that reads maps."""
    if isinstance(choice, nn.Module):
        return choice
    name, given, options = named(choice)
    cls: Any = HEADS[name]
    if reads_map(cls) and not callable(getattr(tower, "forward_features", None)):
        if asked:
            raise ValueError(f"head {choice!r} reads feature maps, and {type(tower).__name__} has none; take linear or mlp")
        cls, given, options = HEADS["linear"], [], {}
    width = int(tower.num_features) if reads_map(cls) else features_of(tower)  # type: ignore[arg-type]
    return _made("head", choice, cls, width, embed_dim, *given, **options)


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
    if embed_dim < 1:
        raise ValueError(f"embed_dim: expected at least 1, got {embed_dim}")
    losses = {pair: _loss(each) for pair, each in loss.items()} if isinstance(loss, Mapping) else _loss(loss)
    for each in head.values() if isinstance(head, Mapping) else [head]:
        _ = isinstance(each, str) and HEADS[named(each)[0]]  # an unknown name before anything is built
    built = {name: _tower(name, tower, values.get(name), options.get(name, {})) for name, tower in towers.items()}
    chosen = dict(head) if isinstance(head, Mapping) else dict.fromkeys(towers, head)
    asked = set(head) if isinstance(head, Mapping) else set()
    heads = {name: _head(chosen.get(name, "linear"), tower, embed_dim, asked=name in asked) for name, tower in built.items()}
    return JointEmbedding(built, heads, loss=losses, pairs=pairs, weights=weights, frozen=frozen, batch_size=batch_size)


def _stacked(pictures: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(pictures)


def _image_options(pretrained: bool, model_options: Mapping[str, Any] | None, drop_path: float) -> dict[str, Any]:
    return {"pretrained": pretrained, "drop_path_rate": drop_path, **(model_options or {})}


def _align(
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
        column for column in data.train.columns if column not in towers and column not in ("image", "text", "label", "id", "index")
    )
    found = {}
    for name, tower in towers.items():
        if name == "label":
            raise ValueError("label is what a classifier learns, and no modality; its words belong into a column of their own")
        if name in data.columns:
            continue
        kind = tower if isinstance(tower, type | nn.Module) else TOWERS.get(tower.partition(":")[0])
        if getattr(kind, "reads", "") != "table" or not free:
            known = ", ".join(data.columns)
            raise ValueError(f"{data.name} has {known}; there is no {name} to train a tower on; {nearest(name, list(data.columns))}")
        found[name] = free
    return found


def _create_align(
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
    tables = _tables(model, data)
    pictures = [name for name, tower in model.items() if _is_picture(name, tower)]
    if pairs is not None and (alone := [name for name in model if not any(name in pair for pair in pairs)]):
        raise ValueError(f"{alone[0]} is in no pair and would learn nothing; pairs are {', '.join('-'.join(pair) for pair in pairs)}")
    values = {name: _training_values(data.train, name, tables.get(name, ())) for name in model if name not in pictures}
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

    def shown(choice: Any) -> Any:
        if isinstance(choice, Mapping):
            return {key: shown(each) for key, each in choice.items()}
        return choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)

    description = {
        "towers": shown(model),
        "tower_options": {name: getattr(tower, "config", {}) for name, tower in joint.towers.items() if name not in pictures},
        "tokenizers": {name: tower.tokenizer.digest for name, tower in joint.towers.items() if hasattr(tower, "tokenizer")},
        "head": shown(head),
        "embed_dim": embed_dim,
        "loss": shown(loss),
        "pairs": [list(pair) for pair in joint.pairs],
        "weights": dict(joint.weights),
        "frozen": sorted(frozen),
        "tables": {name: list(columns) for name, columns in tables.items()},
        "pretrained": pretrained,
        "drop_path": drop_path,
        "model_options": dict(model_options or {}),
    }
    return _align(joint, description, preprocess, tables, freeze_bn)


def _training_values(train: Split, name: str, columns: Sequence[str]) -> Iterator[Any]:
    """The raw values of a modality that are there, one by one; no picture is opened."""
    for row in tracked(train.without_pictures(), len(train), f"look at {name}"):
        if (value := raw_value(row, name, columns)) is not None:
            yield value


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
        return _create_align(
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
        elif name in settings["preprocess"]:
            channels = settings["preprocess"][name]["input_size"][0]
            towers[name] = create_model(tower, num_classes=0, **{"in_chans": channels, **settings["model_options"]})
        else:
            towers[name] = _loaded_tower(path, name, TOWERS[tower.partition(":")[0]], settings["tower_options"][name])
        held = getattr(towers[name], "tokenizer", None)
        if held is not None and held.digest != settings["tokenizers"][name]:
            file = f"tokenizer.{name}.json" if (path / f"tokenizer.{name}.json").exists() else f"tower.{name}"
            raise ValueError(f"{file} is not the one that this run was trained with")
    joint = create_joint(
        towers,
        head=settings["head"],
        embed_dim=settings["embed_dim"],
        loss=settings["loss"],
        pairs=[tuple(pair) for pair in settings["pairs"]],
        weights=settings["weights"],
        frozen=settings["frozen"],
    )
    rest = safetensors.torch.load_file(path / "joint.safetensors")
    image = {f"towers.image.{key}": tensor for key, tensor in towers["image"].state_dict().items()} if "image" in towers else {}
    joint.load_state_dict({**rest, **image})
    preprocess = {name: Preprocess(**_tuples(each)) for name, each in settings["preprocess"].items()}
    return _align(joint, {key: settings[key] for key in _JOINT}, preprocess, settings["tables"], settings["freeze_bn"])


def _loaded_tower(path: Path, name: str, cls: Any, config: Mapping[str, Any]) -> nn.Module:
    if "tokenizer" in inspect.signature(cls).parameters:
        return cls(tokenizer=Tokenizer.from_json((path / f"tokenizer.{name}.json").read_text()), **config)
    if hasattr(cls, "from_files"):
        return cls.from_files(path / f"tower.{name}", **config)
    return cls(**config)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}

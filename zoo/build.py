"""The edge: names become objects here. Below it nothing is looked up; the command line and the public names of `zoo` go through it.

open_data("digits")                                        a data string -> Data
create_task("effnet_cbam_b0", data)                        a name, or {modality: tower} -> a task for the loop
create_joint({"image": ..., "text": ...}, head="mlp")      names -> JointEmbedding
load_run("runs/x")                                         what `zoo train` left -> the task again, trained
"""

import functools
import inspect
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import timm
import torch
from torch import nn

from registry import DATASETS, HEADS, LOSSES, TOWERS, UnknownName, nearest

from .datasets import Data, read_coco, read_flickr, read_folder, read_manifest, read_picture
from .datasets.data import Row
from .joint import JointEmbedding, Loss, check_pairs, features_of, reads_map
from .progress import tracked
from .towers.tokenizer import Tokenizer
from .train import Align, Classify, Preprocess, Task
from .train.align import network_folder, raw_value

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
        FileNotFoundError: there is no such directory.
        ValueError: timm has no such weights, they do not fit, or the directory holds no network.
    """
    if "/" in name and Path(name).is_dir() or (Path(name) / "config.json").is_file():
        name, kwargs = f"local-dir:{name}", {**kwargs, "pretrained": True}
    bare = name.partition(".")[0]
    if ":" in name and timm.is_model(bare.partition(":")[0]):
        raise ValueError(f"model {name!r}: a network for pictures has no options in its name; from Python: model_options={{...}}")
    if ":" not in name and "/" in name:
        raise FileNotFoundError(f"model {name}: no such run directory")
    if ":" not in name and not timm.is_model(bare):
        raise UnknownModel(f"unknown model {bare!r}; {nearest(bare, timm.list_models())}")
    if name.startswith("local-dir:"):
        _check_network(Path(name.removeprefix("local-dir:")))
    try:
        return timm.create_model(name, **kwargs)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name.removeprefix('local-dir:')}/model.safetensors is damaged: {error}") from error
    except RuntimeError as error:  # no such tag, no weights for it, or weights of another network
        raise ValueError(str(error)) from error
    except TypeError as error:
        if "drop_path_rate" in kwargs:  # not every network has stochastic depth
            return create_model(name, **{key: value for key, value in kwargs.items() if key != "drop_path_rate"})
        raise ValueError(f"model {name!r}: {error}") from error


def _check_network(path: Path) -> None:
    """Raises FileNotFoundError or ValueError where a directory holds no network for timm to read."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such directory")
    try:
        config = json.loads((path / "config.json").read_text())
        known = "architecture" in config
    except (OSError, ValueError):
        known = False
    if not known:
        raise ValueError(f"{path} holds no network for pictures: expected a config.json with its architecture, as `zoo train` writes it")
    if "zoo" in config and not (path / "model.safetensors").is_file():  # timm would take another file's weights
        raise FileNotFoundError(f"{path}: model.safetensors is missing")


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
        elif equals and ":" not in (found[last] if last else key):  # it cannot be an option either
            raise ValueError(f"{word!r}: there is no {key}; {nearest(key, list(keys))}")
        elif last:
            found[last] += f",{word}"  # an option of the last one
        else:
            return choice
    return found


_KINDS: dict[type, str] = {int: "a whole number of at least 1", float: "a number", bool: "true or false", str: "a word", type(None): "null"}


def _is_of(kind: type, value: Any) -> bool:
    if isinstance(value, bool) or kind not in (int, float):
        return type(value) is kind
    if kind is int:
        return isinstance(value, int) and value >= 1
    return isinstance(value, int | float) and math.isfinite(value)


def _check_options(
    what: str, choice: str, given: Sequence[Any], own: Mapping[str, Any], *makers: Callable[..., Any], skip: Collection[str] = ()
) -> None:
    """Whether the makers, the last of which is called, take what stands behind a name.

    Raises:
        ValueError: something is missing or too much, there is no such option, or its value is of another kind.
    """
    name = choice.partition(":")[0]
    signatures = [inspect.signature(make).parameters for make in makers]
    free = any(each.kind is each.VAR_KEYWORD for each in signatures[0].values())
    known = {
        key: each for signature in signatures for key, each in signature.items() if key not in skip and each.kind is not each.VAR_KEYWORD
    }
    places = [key for key, each in signatures[-1].items() if key not in skip and each.kind is each.POSITIONAL_OR_KEYWORD]
    for place in places[len(given) :]:
        if place not in own and known[place].default is inspect.Parameter.empty:
            raise ValueError(f"{what} {choice!r}: expected {name}:{place.upper()}")
    for word in [*given[len(places) :], *(key for key in own if key not in known and not free)]:
        raise ValueError(f"{what} {choice!r}: {name} has no option {word!r}; {nearest(word, list(known)) if known else 'it has none'}")
    for key, value in own.items():
        kinds = get_args(known[key].annotation) or (known[key].annotation,) if key in known else ()
        if kinds and all(kind in _KINDS for kind in kinds) and not any(_is_of(kind, value) for kind in kinds):
            expected = " or ".join(_KINDS[kind] for kind in kinds)
            raise ValueError(f"{what} {choice!r}: {key}: expected {expected}, got {value!r}")


def _made(what: str, choice: str, make: Callable[..., Any], *given: Any, **options: Any) -> Any:
    try:
        return make(*given, **options)
    except (TypeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{what} {choice!r}: {error}; options are given as {choice.partition(':')[0]}:name=value,name=value") from error


def _loss(choice: str | Loss) -> Loss:
    if not isinstance(choice, str):
        return choice
    name, given, options = named(choice)
    function: Any = LOSSES[name]
    _check_options("loss", choice, given, options, function, skip=("a", "b", "logit_scale", "logit_bias", "ids"))
    if not options:
        return function
    chosen: Any = functools.partial(function, **options)
    chosen.init_logit_scale, chosen.init_logit_bias = function.init_logit_scale, function.init_logit_bias
    if during := getattr(function, "during", None):
        chosen.during = lambda progress: {key: value for key, value in during(progress).items() if key not in options}
    _made(
        "loss", choice, chosen, torch.eye(2), torch.eye(2), logit_scale=torch.ones(1), logit_bias=torch.zeros(1)
    )  # a wrong value is told now
    return chosen


def _is_picture(modality: str, tower: str | nn.Module) -> bool:
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
    _check_options("tower", tower, given, own, *([cls, cls.fit] if fits else [cls]), skip=("tokenizer", "values", "folder"))
    parameters = inspect.signature(cls).parameters
    needed = [key for key, each in parameters.items() if each.kind is each.KEYWORD_ONLY and each.default is each.empty and key not in own]
    if values is None and hasattr(cls, "fit") and needed:
        raise ValueError(f"{modality}={tower}: {' and '.join(needed)} are learned from training values: give values={{{modality!r}: ...}}")
    if "tokenizer" in parameters:
        own["tokenizer"] = Tokenizer.bytes() if values is None else Tokenizer.train(values, _VOCABULARY)
    elif fits:
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
        choice, cls, given, options = "linear", HEADS["linear"], [], {}
    _check_options("head", choice, given, options, cls, skip=("in_features", "embed_dim"))
    width = features_of(tower)
    if reads_map(cls):
        width = int(tower.num_features)  # type: ignore[arg-type]
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
    if not _is_of(int, embed_dim):
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
    for name, tower in model.items():
        if not isinstance(tower, str | nn.Module):
            raise ValueError(f"{name}: expected a name or a module, got {tower!r}")
        if not _is_picture(name, tower) and isinstance(tower, nn.Module) and not callable(getattr(tower, "prepare", None)):
            raise ValueError(
                f"{name}: {type(tower).__name__} has no `prepare`, which makes a tensor of raw values, as registry.TOWERS asks"
            )
    tables = _tables(model, data)
    pictures = [name for name, tower in model.items() if _is_picture(name, tower)]
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
    return _align(joint, description, preprocess, tables, freeze_bn)


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
    except (AttributeError, TypeError, LookupError) as error:
        if isinstance(error, UnknownName):
            raise ValueError(f"{path}: the run does not load: {error}") from error
        raise ValueError(f"{path}: the run does not load: config.json is damaged ({type(error).__name__}: {error})") from error
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(f"{path}: the run does not load: {error}") from error


def _load_classifier(path: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> Task:
    network: Any = create_model(f"local-dir:{path}", pretrained=True, drop_path_rate=settings.get("drop_path"))
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
    pictures = settings["preprocess"]
    for what in ("towers", "head", "loss"):
        chosen = settings[what] if isinstance(settings[what], dict) else {what: settings[what]}
        for name, each in chosen.items():
            if each.startswith("<") and not (what == "towers" and name in pictures):
                raise ValueError(f"{name} was given as an object, {each[1:-1]}; make the task again in Python and load joint.safetensors")
    for name, tower in settings["towers"].items():
        if name in pictures:
            towers[name] = create_model(f"local-dir:{network_folder(path, name)}", pretrained=True, num_classes=0)
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
    try:
        rest = safetensors.torch.load_file(path / "joint.safetensors")
    except safetensors.SafetensorError as error:
        raise ValueError(f"joint.safetensors is damaged: {error}") from error
    networks = {f"towers.{name}.{key}": tensor for name in pictures for key, tensor in towers[name].state_dict().items()}
    joint.load_state_dict({**rest, **networks})
    preprocess = {name: Preprocess(**_tuples(each)) for name, each in settings["preprocess"].items()}
    return _align(joint, {key: settings[key] for key in _JOINT}, preprocess, settings["tables"], settings["freeze_bn"])


def _loaded_tower(path: Path, name: str, cls: Any, config: Mapping[str, Any]) -> nn.Module:
    if "tokenizer" in inspect.signature(cls).parameters:
        file = path / f"tokenizer.{name}.json"
        try:
            tokenizer = Tokenizer.from_json(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file.name} is damaged: {error}") from error
        return cls(tokenizer=tokenizer, **config)
    if hasattr(cls, "from_files"):
        return cls.from_files(path / f"tower.{name}", **config)
    return cls(**config)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}

"""A run directory to what was trained."""

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from registry import TOWERS, UnknownName

from ..datasets import Data, runs_a_command
from ..deploy.exported import Exported, RuntimeNetwork, load_exported
from ..towers.tokenizer import Tokenizer
from ..train import Align, Classify, Preprocess, Task
from ..train.align import network_folder
from .align import as_task
from .data import open_data
from .joint import create_joint
from .model import create_model

_JOINT = (  # what a joint run says of its model
    *("towers", "tower_options", "tokenizers", "head", "embed_dim", "loss", "pairs", "weights", "frozen", "tables"),
    *("pretrained", "drop_path", "model_options"),
)


@dataclass(frozen=True)
class Run:
    """A run directory, opened.

    Args:
        path: where it is.
        task: what was trained, with its weights.
        settings: how it was trained, with "data", the data string.
        runtime: of an exported folder what its config.json says of its files; None: the run itself.
    """

    path: Path
    task: Task
    settings: dict[str, Any]
    runtime: Mapping[str, Any] | None = None

    def to_change(self) -> "Run":
        """The run, for whoever wants to change its network.

        Raises:
            ValueError: it is an exported folder.
        """
        if self.runtime is not None:
            came = self.runtime.get("run", "the run it came from")
            raise ValueError(f"{self.path} is an exported network ({self.runtime['name']}), and stays as it is: take {came} instead")
        return self

    @property
    def broken(self) -> str:
        """What became of rows whose picture can not be read: "raise", "skip" or "replace"."""
        return self.settings.get("broken", "raise")

    def open_data(self, data: str | Path | None = None, *, broken: bool | None = None) -> Data:
        """The data it was trained on, or other data of the same classes.

        Args:
            data: the data string; the run's own by default.
            broken: as in `zoo.open_data`; by default whether the run was trained in spite of broken pictures.

        Raises:
            ValueError: the run does not know its data, or the classes are others.
        """
        named = data or self.settings.get("data")
        if not named:
            raise ValueError(f"{self.path} does not say what it was trained on: give --data")
        if data is None and runs_a_command(str(named)):
            raise ValueError(f"{self.path} was trained on {named}, which runs a command: give it as --data if you mean it")
        opened = open_data(named, broken=self.broken != "raise" if broken is None else broken)
        if isinstance(self.task, Classify) and opened.classes is not None and tuple(opened.classes) != self.task.classes:
            mine, theirs = ", ".join(self.task.classes[:8]), ", ".join(opened.classes[:8])
            raise ValueError(
                f"{named} has other classes than the run: expected {len(self.task.classes)} ({mine}), got {len(opened.classes)} ({theirs})"
            )
        return opened


def load_run(path: str | Path) -> Run:
    """Open what `zoo train` left in a directory; or an exported folder, whose runtime then takes the place of the network.

    Raises:
        FileNotFoundError: there is no such directory.
        ImportError: an exported folder, and its runtime is not installed.
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
    runtime = config.get("runtime")
    loaders = {Classify.kind: _load_classifier, Align.kind: _load_joint}
    if runtime is not None:
        loaders = {Classify.kind: _load_exported_classifier, Align.kind: _load_exported_joint}
    if kind not in loaders:
        raise ValueError(f"{path}: unknown task {kind!r}; expected {' or '.join(loaders)}")
    try:
        return Run(path, loaders[kind](path, config, settings), settings, runtime)
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
        multi_label=settings.get("multi_label", False),
        options={key: settings.get(key) for key in ("pretrained", "drop_path", "model_options", "init")},
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
    description = {**{key: settings[key] for key in _JOINT}, **({"init": settings["init"]} if settings.get("init") else {})}
    return as_task(joint, description, preprocess, settings["tables"], settings["freeze_bn"])


def _networks(path: Path, config: Mapping[str, Any], width: int) -> tuple[Exported, dict[str, RuntimeNetwork]]:
    """An exported folder, open, and its files in the place of networks."""
    opened = load_exported(path)
    instead = config["runtime"].get("run", "the run it came from")
    classifier = opened.classes is not None
    return opened, {
        name: RuntimeNetwork(function, width, classifier=classifier, instead=instead, tokens=opened.tokens.get(name))
        for name, function in opened.functions.items()
    }


def _load_exported_classifier(path: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> Task:
    opened, networks = _networks(path, config, len(config["label_names"]))
    multi_label = settings.get("multi_label", False)
    task = Classify(
        networks["image"],
        name=settings["model"],
        preprocess=opened.preprocess["image"],
        classes=config["label_names"],
        multi_label=multi_label,
    )
    return task.eval()


def _load_exported_joint(path: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> Task:
    """Each file gives embeddings already: heads change nothing."""
    about = config["runtime"]
    opened, networks = _networks(path, config, about["embed_dim"])
    pairs = [tuple(pair) for pair in settings["pairs"] if set(pair) <= networks.keys()]
    if not pairs:
        raise ValueError(f"it holds {' and '.join(networks)} alone, and no pair to measure; from Python: zoo.load_exported({str(path)!r})")
    joint = create_joint(networks, head={name: nn.Identity() for name in networks}, embed_dim=about["embed_dim"], pairs=pairs)
    for number, pair in enumerate(joint.pairs):
        if joint.logit_scale is not None and "-".join(pair) in about["scales"]:
            joint.logit_scale.data[number] = math.log(about["scales"]["-".join(pair)])
    description = {key: settings[key] for key in _JOINT}
    return as_task(joint.requires_grad_(False), description, opened.preprocess, {}, False).eval()


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

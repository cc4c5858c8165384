"""A name, or a run directory, to a network of timm's."""

import json
from pathlib import Path
from typing import Any

import safetensors
import timm
from torch import nn

from registry import nearest


class UnknownModel(ValueError):
    """A name that timm does not know; the message offers the nearest."""


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
        config, known = {}, False
    if "runtime" in config:
        run = config["runtime"].get("run", "the run it came from")
        raise ValueError(f"{path} is an exported network, for use and not for training: take {run} instead")
    if not known:
        raise ValueError(f"{path} holds no network for pictures: expected a config.json with its architecture, as `zoo train` writes it")
    if "zoo" in config and not (path / "model.safetensors").is_file():  # timm would take another file's weights
        raise FileNotFoundError(f"{path}: model.safetensors is missing")

"""What `zoo bench` measures: a name, a run or an exported folder to a candidate, with what is known of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones.macs import count_macs
from ..deploy.export import at_size, parts
from ..deploy.exported import is_exported, read_config
from ..deploy.network_speed import Candidate, Worth
from ..deploy.ways import Written
from .model import create_model
from .run import load_run

_METRICS = {"classify": "top1", "align": "R@1"}  # a run's number, by its task


def _timms(name: str) -> Callable[[], nn.Module]:
    return lambda: create_model(name)


def _torchvisions() -> nn.Module:
    from torchvision.models import efficientnet_b0

    return efficientnet_b0(weights=None)


_PEERS: Mapping[str, Callable[[], nn.Module]] = {
    "timm/efficientnet_b0": _timms("efficientnet_b0"),
    "torchvision/efficientnet_b0": _torchvisions,
    "timm/mobilenetv3_large_100": _timms("mobilenetv3_large_100"),
}


def _read(file: Path) -> dict[str, Any]:
    """JSON, or the last line of JSON lines; nothing of what is not there or damaged."""
    try:
        text = file.read_text()
        found = json.loads(text.splitlines()[-1] if file.suffix == ".jsonl" else text)
    except (OSError, ValueError, IndexError):
        return {}
    return found if isinstance(found, dict) else {}


def _card(folder: Path) -> dict[str, Any]:
    """What the card of a network that was made from another says of it."""
    card = _read(folder / "card.json")
    return next((card[key] for key in ("after", "student") if isinstance(card.get(key), dict)), {})


def _worth(folder: Path, settings: Mapping[str, Any]) -> Worth | None:
    """From its card, which has numbers of this very network, or from the last line of its training."""
    metric = "mAP" if settings.get("multi_label") else _METRICS.get(str(settings.get("task")), "")
    value = _card(folder).get(metric, _read(folder / "metrics.jsonl").get(metric))
    data = _read(folder / "card.json").get("made", {}).get("data") or settings.get("data") or "data that it does not name"
    return Worth(metric, float(value), str(data)) if isinstance(value, int | float) else None


def _named(name: str, network: nn.Module, size: tuple[int, int, int], **known: Any) -> Candidate:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Candidate(name, size, network, parameters, count_macs(network, size), **known)


def _of_run(folder: Path, img_size: int | None) -> Candidate:
    run = load_run(folder)
    own = run.task.of_pictures().input_size
    if img_size is not None:
        at_size(run.task, img_size)
    part = next(each for each in parts(run.task)[0] if each.reads_pictures)
    size: tuple[int, int, int] = tuple(part.example.shape[1:])  # type: ignore[assignment]
    weights = folder / "model.safetensors"
    bytes = weights.stat().st_size if run.task.kind == "classify" and weights.is_file() else None  # a joint run has other towers beside it
    return _named(str(folder), part.network, size, bytes=bytes, worth=_worth(folder, run.settings) if size == own else None)


def _of_exported(folder: Path, img_size: int | None) -> Candidate:
    config = read_config(folder)
    about, settings = config["runtime"], config.get("zoo", {})
    if not about["preprocess"]:
        raise ValueError(f"{folder} reads texts alone, and zoo bench measures with pictures")
    name, preprocess = next(iter(about["preprocess"].items()))
    channels, *own = preprocess["input_size"]
    if img_size is not None and own != [img_size, img_size] and not about["any_size"]:
        raise ValueError(f"{folder} takes pictures of {own[0]} pixels and no others: export it again with --img-size {img_size}")
    side = own if img_size is None else [img_size, img_size]
    card, came = _card(folder), Path(about.get("run", ""))
    worth = _worth(folder, settings)
    if worth is None and not about["options"] and not card:
        worth = _worth(came, settings)  # it says what the run says, which was checked when it was written
    return Candidate(
        str(folder),
        (channels, *side),
        Written(about["name"], folder / about["parts"][name], about["options"]),
        card.get("parameters"),
        card.get("macs"),
        worth=worth if side == own else None,
    )


def open_candidate(name: str, *, img_size: int | None = None) -> Candidate:
    """A timm name with random weights, a run directory, or an exported folder; of a joint embedding what reads pictures.

    Args:
        img_size: a side of the pictures; the network's own by default. Of a run at another size than its own no accuracy is known.

    Raises:
        FileNotFoundError: there is no such directory.
        UnknownModel: timm has no such model.
        ValueError: the directory is neither, it is damaged, or it has another size of pictures and no other.
    """
    folder = Path(name)
    if is_exported(folder):
        return _of_exported(folder, img_size)
    if folder.is_dir() and "zoo" in _read(folder / "config.json"):
        return _of_run(folder, img_size)
    network: Any = create_model(name)
    channels, *side = network.pretrained_cfg.get("input_size") or (3, 224, 224)
    return _named(name, network, (channels, *([img_size, img_size] if img_size else side)))


def peers(img_size: int | None = None) -> Sequence[Candidate]:
    """What others have: timm's EfficientNet-B0 and MobileNetV3, torchvision's EfficientNet-B0, with random weights and 1,000 classes."""
    side = img_size or 224
    with torch.random.fork_rng(devices=[]):
        return [_named(name, make(), (3, side, side)) for name, make in _PEERS.items()]

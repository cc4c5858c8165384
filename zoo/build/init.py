"""Weights of the base network, in a file or a run directory, to a network with attention that starts as good as they are.

The network of `effnet_<attention>_<variant>` is built without that attention, loads the file strictly, and then gets the attention grafted
in (backbones/graft.py): right after loading it computes what the base computes. A file of weights alone does not say which network they
are of, nor how pictures were prepared: padding, the epsilon of the batch norms, mean and std. In this order they are what

    the tag of the name says            effnet_cbam_lite0.tf_in1k
    the file says                       `architecture`, `mean`, `std` in the header of a .safetensors, or in the config.json beside it
    the name of the file says           tf_efficientnet_lite0_features.safetensors
    timm says of the variant's base
"""

import functools
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from timm.models import adapt_input_conv, get_arch_pretrained_cfgs, load_state_dict
from torch import nn

from registry import ATTENTION

from ..backbones import swap_attention
from ..backbones.slots import shown, slots, stage
from ..backbones.variants import VARIANTS, Variant
from ..backbones.weights import base_name
from ..progress import console
from .model import create_model

Tensors = dict[str, torch.Tensor]
_PREPARATION = ("mean", "std", "interpolation", "crop_pct", "input_size")
_OURS = ("attn_stages", "attn_kwargs", "attn_all")


def read_state(file: Path) -> Tensors:
    """The state dict in a .safetensors, or in a .pth that torch reads with weights_only; a training checkpoint's weights as well.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds something else than tensors by name.
    """
    if not file.is_file():
        raise FileNotFoundError(f"init {file}: no such file or run directory")
    try:
        state = load_state_dict(str(file), weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        why = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"init {file}: expected a state dict, .safetensors or .pth with tensors alone; it cannot be read: {why}"
        ) from error
    if not isinstance(state, dict) or not state or not all(torch.is_tensor(each) for each in state.values()):
        raise ValueError(f"init {file}: expected a state dict, names and their tensors; it holds a {type(state).__name__} of other things")
    return state


def _said(file: Path) -> dict[str, Any]:
    """What the header of the file and the config.json beside it say of the network."""
    found: dict[str, Any] = {}
    if file.suffix == ".safetensors":
        with safetensors.safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
        for key in ("architecture", *_PREPARATION):
            if key in header:
                try:
                    found[key] = json.loads(header[key])
                except ValueError:
                    found[key] = header[key]  # a bare word
    config = file.with_name("config.json")
    if file.stem in ("model", "pytorch_model") and config.is_file():  # as timm and the hub lay them out
        try:
            beside = json.loads(config.read_text())
        except ValueError as error:
            raise ValueError(f"init {file}: the config.json beside it is damaged: {error}") from error
        found |= {key: value for key, value in beside.get("pretrained_cfg", {}).items() if key in _PREPARATION}
        found |= {"architecture": beside["architecture"]} if "architecture" in beside else {}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def _row(name: str) -> tuple[str, Variant] | None:
    """("cbam", the variant) of effnet_cbam_lite0; None of a name that is not ours."""
    variant = max((variant for variant in VARIANTS if name.endswith(f"_{variant}")), key=len, default=None)
    if not name.startswith("effnet_") or variant is None:
        return None
    return name.removeprefix("effnet_").removesuffix(f"_{variant}"), VARIANTS[variant]


def _tag(name: str, row: Variant, architecture: str | None, file: Path) -> tuple[str, str]:
    """(The tag under which the variant is that network, how it is known).

    Raises:
        ValueError: the file says that it holds another network.
    """
    bare, _, tag = name.partition(".")
    if tag:
        return tag, "by the name's tag"
    known = [each for each in (row.base, row.tf) if each]
    how = "by what it says"
    if architecture is None:
        how = "by its name"
        stem = file.stem.replace("-", "_")
        fits = [each for each in known if stem == each or stem.startswith((f"{each}_", f"{each}."))]
        if not fits:
            return "", "timm's default for this name"
        architecture = max(fits, key=len)
    architecture, _, its = architecture.partition(".")
    ours = _row(architecture)
    if architecture not in known and (ours is None or ours[1] is not row):
        raise ValueError(f"init {file}: it says that it holds {architecture}; {bare} is made from {' or '.join(known)}")
    if architecture == row.tf or its.startswith("tf_"):
        return next(key.partition(".")[2] for key in get_arch_pretrained_cfgs(bare) if key.partition(".")[2].startswith("tf_")), how
    return "", how


@functools.cache
def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    network: Any = timm.create_model(name, num_classes=0, device="meta")
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _looks_like(state: Tensors) -> str:
    """The EfficientNet of which most tensors fit: a few seconds, for an error."""
    given = {key: tuple(tensor.shape) for key, tensor in state.items() if not key.startswith("classifier.")}

    def fit(name: str) -> float:
        wanted = _shapes(name)
        return sum(given.get(key) == shape for key, shape in wanted.items()) / max(len(wanted), len(given))

    best = max((row.base for row in VARIANTS.values()), key=fit)
    share = fit(best)
    return f"; it looks like {best}" if share == 1 else f"; it is nearest to {best} ({share:.0%} of the tensors fit)" if share > 0.5 else ""


def _give(network: nn.Module, attention: str, row: Variant, attn_stages: Any = None, attn_kwargs: Any = None, attn_all: Any = None) -> str:
    """Graft the gates that the name, `attn_stages` and `attn_all` ask for; what happened in words."""
    everywhere = attn_all if attn_all is not None else not (attention == "se" and row.has_se)
    chosen = {int(at): dict(each) if isinstance(each, Mapping) else {"name": each} for at, each in (attn_stages or {}).items()}
    asked: dict[str, tuple[str, dict[str, Any], set[str]]] = {}
    for path, gate in slots(network).items():
        own = chosen.get(stage(path) or 0)
        if own is None and not everywhere and gate is None:
            continue
        name, options = (own["name"], {k: v for k, v in own.items() if k != "name"}) if own else (attention, dict(attn_kwargs or {}))
        if shown(gate) != name or options:
            asked.setdefault(json.dumps([name, options]), (name, options, set()))[2].add(path)
    words = []
    for name, options, paths in asked.values():
        report = swap_attention(network, name, where=paths.__contains__, keep="graft", attn_kwargs=options)
        over = sum(change.how == "handed over" for change in report)
        moved = len(report) - over
        words += [f"{name} takes over in {over} slots"] if over else []
        words += [f"{name} holds the weights of {moved} gates"] if moved else []
    return ", ".join(words)


def create_initialised(name: str, init: str | Path, **kwargs: Any) -> nn.Module:
    """The network of a name, with weights of its base from a file, and attention that takes over from what was there.

    Args:
        name: a timm name; `effnet_<attention>_<variant>` gets its attention grafted in, others load the file as it is.
        init: a state dict (.safetensors, or .pth), with or without a classifier; or a run directory, or any that timm reads.
        **kwargs: for `timm.create_model`, `attn_stages`, `attn_kwargs` and `attn_all` among them. A classifier of the same size is
            taken from the file; another one starts anew.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds another network: the tensors that are missing or do not fit, and what it looks like.
    """
    path = Path(init)
    bare = name.partition(".")[0]
    ours = _row(bare)
    if ours is None:
        return _plain(name, path / "model.safetensors" if path.is_dir() else path, **kwargs)
    attention, row = ours
    ATTENTION[attention]
    gates = {key: kwargs.pop(key) for key in _OURS if key in kwargs}
    if path.is_dir():
        network: Any = create_model(f"local-dir:{path}", pretrained=True, **kwargs)
        held = base_name(network)
        if held not in (row.base, row.tf):
            raise ValueError(
                f"init {path}: it holds {held}; {bare} is made from {' or '.join(each for each in (row.base, row.tf) if each)}"
            )
        how = "by its config.json"
    else:
        network, how = _from_file(name, row, path, kwargs)
        held = base_name(network)
    done = _give(network, attention, row, **gates)
    cfg = network.pretrained_cfg
    numbers = f"mean {', '.join(f'{each:g}' for each in cfg['mean'])}, std {', '.join(f'{each:g}' for each in cfg['std'])}"
    console.print(f"init: {path} as {held} ({how}), {numbers}{f'; {done}' if done else ''}", highlight=False, soft_wrap=True)
    return network


def _from_file(name: str, row: Variant, file: Path, kwargs: dict[str, Any]) -> tuple[nn.Module, str]:
    """(The base network with the file's weights, or this very network if they are its own; how it is known which network it is)."""
    state, said = read_state(file), _said(file)
    tag, how = _tag(name, row, said.pop("architecture", None), file)
    bare = name.partition(".")[0]
    own = any(key not in _shapes(row.base) for key in state if not key.startswith("classifier.")) and _shapes(bare).keys() <= state.keys()
    start = bare if own else f"effnet_{'se' if row.has_se else 'none'}_{row.name}"  # timm's own network, that starts calm
    network: Any = create_model(f"{start}.{tag}" if tag else start, **kwargs, pretrained_cfg_overlay=said)
    _load(network, state, file, bare)
    return network, how


def _plain(name: str, file: Path, **kwargs: Any) -> nn.Module:
    """Any other network of timm's, with a file of its own weights."""
    state, said = read_state(file), _said(file)
    said.pop("architecture", None)
    network = create_model(name, **kwargs, pretrained_cfg_overlay=said)
    _load(network, state, file, name)
    return network


def _load(network: Any, state: Tensors, file: Path, name: str) -> None:
    """Everything strictly; but the classifier starts anew if the file has none or one of another size."""
    wanted = network.state_dict()
    head, stem = network.pretrained_cfg.get("classifier") or (), network.pretrained_cfg.get("first_conv")
    heads = tuple(f"{each}." for each in ([head] if isinstance(head, str) else head))
    ours, theirs = ({key: each.shape for key, each in tensors.items() if key.startswith(heads)} for tensors in (wanted, state))
    fresh = set() if ours == theirs else set(ours)
    state = {key: tensor for key, tensor in state.items() if not (fresh or not ours) or not key.startswith(heads)}
    if isinstance(stem, str) and (key := f"{stem}.weight") in state.keys() & wanted.keys() and state[key].ndim == 4:
        state[key] = adapt_input_conv(wanted[key].shape[1], state[key])  # of RGB, for other channels
    faults = {
        "lacks": [key for key in wanted if key not in state and key not in fresh],
        "has no place for": [key for key in state if key not in wanted],
        "has another shape of": [
            f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
            for key in sorted(state.keys() & wanted.keys())
            if state[key].shape != wanted[key].shape
        ],
    }
    for fault, keys in faults.items():
        if keys:
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            told = f"it cannot be the base of {name}: it {fault} {', '.join(keys[:5])}{more}"
            raise ValueError(f"init {file}: {told}{_looks_like(state)}")
    network.load_state_dict({**state, **{key: wanted[key] for key in fresh}})

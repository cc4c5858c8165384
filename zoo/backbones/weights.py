"""What a checkpoint means for a network with another attention, and how a network is saved so that timm brings it back.

Everything but the gates and the classifier must come from the file, whole: timm itself goes quiet (strict=False) as soon as the number of
classes differs. A gate is taken from the file where the file has that very gate, and starts fresh where the file has another one or none.
"""

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.models._hub import save_config_for_hf
from torch import nn

from ..files import write_together
from .slots import blocks, shown, slots, widths
from .timm_gates import same_function
from .variants import VARIANTS

_logger = logging.getLogger("zoo")
_HEAD = ("conv_head.", "bn2.", "classifier.")  # what a features_only network does without
_STOCK = {"none", "se", "eca", "ese", "lcbam", "scoord"}  # gates that timm's own networks can have, function and keys
_OURS = ("attn_stages", "attn_kwargs", "attn_all", "calm", "base", "base_args", "slots", "widths")  # what timm does not know
Tensors = dict[str, torch.Tensor]


def _by_slot(state: Mapping[str, torch.Tensor]) -> dict[str, Tensors]:
    """{"blocks.3.1.se": {"conv_reduce.weight": tensor}} of the gates in a state dict."""
    slots: dict[str, Tensors] = {}
    for key, tensor in state.items():
        before, gate, after = key.partition(".se.")
        if gate and before.startswith("blocks."):
            slots.setdefault(before + ".se", {})[after] = tensor
    return slots


def _stage(slot: str) -> str:
    return slot.split(".")[1]


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in tensors.items()}


def keep_backbone(state: Tensors, model: nn.Module, *, name: str, source: str, own: bool = False) -> Tensors:
    """The state dict to load strictly: the file's backbone, the file's gates where they fit, the model's own fresh gates elsewhere.

    Args:
        state: what the file holds.
        model: the network that is about to load it.
        name, source: of the network and the file, for messages.
        own: the file was saved from this very network: all of its gates must be there.

    Raises:
        RuntimeError: the file lacks a backbone tensor, holds one too many or of another shape, or a damaged copy of this network's gates.
    """
    wanted = model.state_dict()
    ours, theirs = _by_slot(wanted), _by_slot(state)
    fits = {slot for slot in ours if _shapes(ours[slot]) == _shapes(theirs.get(slot, {}))}
    gated_stages = {_stage(slot) for slot in fits}
    for slot in sorted(ours.keys() - fits):  # half a gate, or a hole in a stage that has gates, is damage and not another attention
        found, needed = _shapes(theirs.get(slot, {})), _shapes(ours[slot])
        if own or (found and found.items() < needed.items()) or (not found and _stage(slot) in gated_stages):
            lacks = ", ".join(f"{slot}.{key}" for key in sorted(needed) if needed[key] != found.get(key))
            raise RuntimeError(f"{source} cannot be {name}: it lacks {lacks}")

    gate_keys = {f"{slot}.{key}" for slots in (ours, theirs) for slot, tensors in slots.items() for key in tensors}
    backbone = {key: tensor for key, tensor in wanted.items() if key not in gate_keys and not key.startswith("classifier.")}
    has_head = "conv_head.weight" in wanted
    result = {key: tensor for key, tensor in state.items() if key not in gate_keys and (has_head or not key.startswith(_HEAD))}
    missing = sorted(backbone.keys() - result.keys())
    unknown = sorted(key for key in result.keys() - backbone.keys() if not key.startswith("classifier."))
    reshaped = sorted(
        f"{key} {tuple(result[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in backbone.items()
        if key in result and result[key].shape != tensor.shape and key != "conv_stem.weight"  # timm fits the stem to in_chans
    )
    for fault, keys in (("lacks", missing), ("has no place for", unknown), ("has another shape of", reshaped)):
        if keys:
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            raise RuntimeError(f"{source} cannot be the backbone of {name}: it {fault} {', '.join(keys[:5])}{more}")

    for slot in ours:
        result.update({f"{slot}.{key}": tensor for key, tensor in (theirs if slot in fits else ours)[slot].items()})
    if "classifier.weight" not in wanted:
        result.pop("classifier.weight", None)
        result.pop("classifier.bias", None)

    fresh = len(ours) - len(fits)
    head = wanted.get("classifier.weight")
    new_head = ", the classifier" if head is not None and (state.get("classifier.weight", head[:0]).shape != head.shape) else ""
    if fresh or new_head or len(theirs) > len(fits):
        left = f", {len(theirs) - len(fits)} gates of the file left out" if len(theirs) > len(fits) else ""
        _logger.warning(
            "%s: kept %d backbone tensors and %d gates of %s; new: %d gates%s%s",
            *(name, len(backbone), len(fits), source, fresh, new_head, left),
        )
    return result


def _base(model: Any) -> tuple[str, dict[str, Any]]:
    """timm's network under this one, and the arguments that make it."""
    cfg, args = model.pretrained_cfg, dict(getattr(model, "_model_args", {}))
    name = cfg["architecture"]
    while "base" in args:  # swapped or pruned, or both
        name, args = args["base"].partition(".")[0], {**{key: value for key, value in args.items() if key != "base"}, **args["base_args"]}
    variant = max((variant for variant in VARIANTS if name.endswith(f"_{variant}")), key=len, default=None)
    if name.startswith("effnet_") and variant:
        row = VARIANTS[variant]
        name = row.tf if row.tf and (cfg.get("tag") or "").startswith("tf_") else row.base
    return name, {key: value for key, value in args.items() if key not in _OURS}


def base_name(model: Any) -> str:
    """The timm name of the network under this one: efficientnet_b0 of effnet_cbam_b0, swapped or not."""
    return _base(model)[0]


def stock_form(model: Any) -> tuple[str, dict[str, Any]] | None:
    """(architecture, arguments) under which timm alone builds this very network; None where it has no such gate, or not in those places."""
    held = slots(model)
    names = {shown(gate) for gate in held.values()}
    if not names <= _STOCK or len(names - {"none"}) > 1:
        return None
    name, args = _base(model)
    (kind,) = (names - {"none"}) or {"none"}
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    channels = {f"{path}.se": widths(block)[0] for _, path, block in blocks(model)}
    channels |= {path: each["channels"] for path, each in getattr(model, "_model_args", {}).get("slots", {}).items()}
    inner = {"block_args": {**args.get("block_args", {}), "attn_layer": kind}}
    for more in ({}, {"se_layer": kind}, inner) if kind != "none" else ({},):
        try:
            stock = timm.create_model(name, device="meta", **{**args, **more, "num_classes": model.num_classes})
        except (TypeError, ValueError, RuntimeError, AssertionError):
            continue  # this network does not take that argument
        if {key: value.shape for key, value in stock.state_dict().items()} == wanted and all(
            gate is None or _same_function(gate, slots(stock).get(path), channels.get(path)) for path, gate in held.items()
        ):
            return name, {**args, **more}
    return None


def _same_function(gate: nn.Module, theirs: nn.Module | None, channels: int | None) -> bool:
    if theirs is None:
        return False
    if type(gate) is type(theirs) and repr(gate) == repr(theirs):
        return True
    return channels is not None and same_function(gate, theirs, channels)


def save_model(
    model: nn.Module,
    out: str | os.PathLike,
    *,
    label_names: list[str] | None = None,
    data_config: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write `config.json` and `model.safetensors`, so that `timm.create_model("local-dir:OUT", pretrained=True)` gives the same network.

    Swapped gates included. A network that timm can build itself (SE, ECA, ESE, ... where its own networks take them) is saved as timm's and
    loads in timm without this package.
    Each file is written under a temporary name and then renamed: a reader sees the old file or the new one, never half of one, and a full
    disk leaves the old ones.

    Args:
        model: a network that came from `timm.create_model`.
        out: a directory; made when it is not there.
        label_names: names of the classes, in order.
        data_config: the preprocessing it was trained with (`input_size`, `mean`, `std`, `interpolation`, `crop_pct`).
        extra: more top-level entries for `config.json`.

    Returns:
        The directory.

    Raises:
        ValueError: the network did not come from `timm.create_model`, or is a features_only one, which timm cannot describe in a file.
        CannotWrite: an OSError: the disk is full, or there is no permission.
    """
    if not hasattr(model, "pretrained_cfg") or not hasattr(model, "num_classes"):
        raise ValueError(
            f"save_model: expected a whole network from timm.create_model, got {type(model).__name__};"
            " save the network with its head (num_classes=0 is fine) and load it with features_only=True"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model_config = {**({"label_names": list(label_names)} if label_names else {}), **(extra or {})}
        save_config_for_hf(model, str(work / "config.json"), model_config=model_config, data_config=data_config)
        config = json.loads((work / "config.json").read_text())
        if stock := stock_form(model):
            config["architecture"], own = stock
            kept = {key: value for key, value in config.get("model_args", {}).items() if key not in _OURS}
            config["model_args"] = {**kept, **own}
        config.get("model_args", {}).pop("num_classes", None)  # said at the top; a second time and transformers cannot load it
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    write_together(out, {"config.json": (json.dumps(config, indent=2) + "\n").encode(), "model.safetensors": weights})
    return out

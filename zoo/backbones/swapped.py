"""How a swapped network is written down, and the timm name under which it comes back.

What was done stands in the network as JSON (`model._model_args`, timm's own record): the base's name and arguments, and for each slot the
gate that is in it. So `save_model`, timm's `save_for_hf` and `push_to_hf_hub` all save it, and `timm.create_model("local-dir:...")` builds
the base, puts the gates in, and only then loads the weights, strictly.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn

from registry import ATTENTION, nearest

from .graft import HandOver
from .slots import place, reader, slots

_ENTRY = "attn_swap"
_SHARED = ("num_classes", "in_chans", "global_pool", "img_size", "drop_rate", "drop_path_rate", "drop_block_rate")  # of any network
_WRAPPING = ("features_only", "out_indices", "feature_cls", "cache_dir", "pretrained_model_args")  # arguments for timm's builder


def build(description: Mapping[str, Any], like: nn.Module) -> nn.Module:
    example = next(like.parameters(), torch.empty(0))
    gate = ATTENTION[description["attention"]]
    built = gate(description["channels"], **description["options"], device=example.device, dtype=example.dtype)
    return built.train(like.training)


def hand_over(model: nn.Module, path: str, old: nn.Module | None, new: nn.Module, channels: int) -> HandOver:
    """What is to sit in the slot while the gates change hands."""
    matched = channels if reader(model, path) is not None else None
    return HandOver(old if old is not None else nn.Identity().train(new.training), new, matched)


def _install(model: nn.Module, path: str, description: Mapping[str, Any]) -> None:
    """Put what a saved description says into a slot of the base."""
    held = slots(model).get(path)
    new = build(description, model)
    if "from" in description:
        if description["from"] is not None:
            _install(model, path, description["from"])
            held = model.get_submodule(path)
        new = hand_over(model, path, held, new, description["channels"])
    place(model, path, new)


def origin(model: Any, entry: str = _ENTRY, changes: str = "slots") -> tuple[str | None, dict[str, Any]]:
    """The base's name and the arguments of `attn_swap` that make this network, whether it was swapped before or not.

    Likewise for another entry that changes a base: with `changes`, its own argument, which is empty as long as nothing was changed.
    """
    cfg, args = getattr(model, "pretrained_cfg", None), dict(getattr(model, "_model_args", {}))
    if not cfg or not cfg.get("architecture"):
        return None, {}
    if cfg["architecture"] == entry:
        return args["base"], args
    shared = {key: args.pop(key) for key in _SHARED if key in args}
    name, tag = cfg["architecture"], cfg.get("tag") or ""
    base = (
        f"{name}.{tag}" if name.startswith("effnet_") and tag.startswith("tf_") else name
    )  # that tag is another padding, not only weights
    return base, {**shared, "base": base, "base_args": args, changes: {}}


def record(
    model: Any, name: str | None, args: dict[str, Any], described: dict[str, Any], entry: str = _ENTRY, changes: str = "slots"
) -> None:
    if name is None:
        return  # not from timm.create_model: changed all the same, but save_model will say that it cannot describe it
    model._model_args = {**args, changes: described}
    model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "architecture": entry}


def _whole(state: dict[str, torch.Tensor], model: Any, *, source: str) -> dict[str, torch.Tensor]:
    """timm goes quiet about everything that is missing as soon as the number of classes differs; only the classifier may."""
    head = model.pretrained_cfg.get("classifier") or ()
    names = [head] if isinstance(head, str) else head
    heads = tuple(f"{name}." for name in names)
    wanted = model.state_dict()
    if not model.num_classes:  # then some drop what stands beside the classifier too, such as its norm
        around = tuple(f"{name.rpartition('.')[0]}." for name in names if "." in name)
        state = {key: value for key, value in state.items() if key in wanted or not key.startswith((*heads, *around))}
    missing = [key for key in wanted if key not in state and not key.startswith(heads)]
    unknown = [key for key in state if key not in wanted and not key.startswith(heads)]
    for fault, keys in (("lacks", missing), ("has no place for", unknown)):
        if keys:
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            raise RuntimeError(
                f"{source} cannot be this network ({model.pretrained_cfg.get('architecture')}): it {fault} {', '.join(keys[:5])}{more}"
            )
    return state


def _swapped(base: str, base_args: Mapping[str, Any], described: Mapping[str, Any], **kwargs: Any) -> nn.Module:
    model = timm.create_model(base, **{**base_args, **kwargs})
    places = slots(model)
    for path, description in described.items():
        if path not in places:
            raise RuntimeError(f"{base} has no slot {path!r}; {nearest(path, list(places))}")
        _install(model, path, description)
    return model


def attn_swap(
    pretrained: bool = False,
    *,
    base: str | None = None,
    base_args: Mapping[str, Any] | None = None,
    slots: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A network whose gates were swapped, as it is saved: timm's `base` with other gates in some slots.

    Args:
        pretrained: load the weights that the directory or the hub holds.
        base, base_args: the network that was swapped in.
        slots: path -> {"attention", "channels", "options"}, and "from" while a gate is being handed over.

    Raises:
        ValueError: called by hand, without a base.
        RuntimeError: the base has no such slot, or the weights are of another network.
    """
    if base is None or not slots:
        raise ValueError(f"{_ENTRY} is the name under which a swapped network is saved; make one with zoo.swap_attention(model, to)")
    return build_saved(_ENTRY, functools.partial(_swapped, base, dict(base_args or {}), slots), base, base_args, pretrained, **kwargs)


def build_saved(
    entry: str, network: Callable[..., nn.Module], base: str, base_args: Mapping[str, Any] | None, pretrained: bool, **kwargs: Any
) -> nn.Module:
    """timm's builder for a base that was changed: `network(**kwargs)` makes it; the weights are then loaded, whole."""
    cfg, overlay = kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None)
    features: dict[str, Any] = {}
    if kwargs.get("features_only"):
        features["feature_cfg"] = {"feature_cls": "getter"}
        if "feature_cls" not in kwargs and "out_indices" not in kwargs:
            plain: Any = timm.create_model(base, **{**(base_args or {}), "features_only": True, "device": "meta"})
            features["feature_cfg"]["out_indices"] = tuple(plain.feature_info.out_indices)  # those of the base: not all have five
    wrapped = {key: kwargs.pop(key) for key in _WRAPPING if key in kwargs}
    return build_model_with_cfg(
        network,
        entry,
        pretrained,
        pretrained_cfg=cfg,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=functools.partial(_whole, source=str(getattr(cfg, "file", None) or "the file")),
        **features,
        **wrapped,
        **kwargs,
    )


default_cfgs: dict[str, Any] = {}
__all__: list[str] = []
register_model(attn_swap)

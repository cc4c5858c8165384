"""The product attention x variant as timm models: `effnet_<attention>_<variant>`. The only file that touches timm's registry.

Each name is timm's own EfficientNet, built by timm with its squeeze-and-excitation slots left empty, into which the gates are then put. So
everything that timm's EfficientNets can do (features_only, output_stride, drop_path_rate, ...) these can too.

    attn_stages   {stage: attention} another attention in some stages (0-based index into `model.blocks`); a value may also be
                  {"name": attention, **options of that gate}
    attn_kwargs   options of the name's own gate, such as {"rd_ratio": 0.125}
    attn_all      True puts a gate into every block, False only where timm has squeeze-and-excitation; by default every block, except that
                  `se` follows timm wherever timm has it, so that `effnet_se_v2_s` is `efficientnetv2_s`
    calm          start calm (the default): gates constant, classifier near zero; False for the papers' and timm's own initialisation
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import (
    EfficientNet,
    EfficientNetFeatures,
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from registry import ATTENTION

from .slots import Slot, attention_slots, blocks, put_gate
from .variants import VARIANTS, Variant
from .weights import keep_backbone

__all__: list[str] = []  # timm's register_model adds every name
default_cfgs: dict[str, Any] = {}  # and reads the weights from here
_TF = "tf_"


def _pretrained_cfgs(name: str, row: Variant) -> Any:
    """timm's weights for this network, under this name; the base's default stays the default, TensorFlow's come behind it as tf_<tag>."""
    plain = {key.partition(".")[2]: cfg for key, cfg in get_arch_pretrained_cfgs(row.base).items()}
    default = timm.models.get_pretrained_cfg(row.base)
    converted = get_arch_pretrained_cfgs(row.tf) if row.tf else {}
    cfgs: dict[str, PretrainedCfg] = {_TF + key.partition(".")[2]: cfg for key, cfg in converted.items() if cfg.has_weights}
    cfgs.update({tag + ("*" if default and tag == (default.tag or "") else ""): cfg for tag, cfg in plain.items()})
    return generate_default_cfgs({f"{name}.{tag}": dataclasses.replace(cfg, url=None) for tag, cfg in cfgs.items()})[name]


def _stage_choice(stage: Any, choice: Any) -> tuple[int, type[nn.Module], dict[str, Any]]:
    own = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
    if "name" not in own:
        raise ValueError(f'attn_stages[{stage}]: expected an attention name or {{"name": ..., options}}, got {choice!r}')
    return int(stage), ATTENTION[own.pop("name")], own


def _put_gates(
    model: Any,
    attention: str,
    row: Variant,
    *,
    attn_stages: Mapping[Any, Any] | None,
    attn_kwargs: Mapping[str, Any] | None,
    attn_all: bool | None,
    calm: bool,
) -> None:
    everywhere = attn_all if attn_all is not None else not (attention == "se" and row.has_se)
    if attn_stages is not None and not isinstance(attn_stages, Mapping):
        raise TypeError(f'attn_stages: expected stages and their attention, such as {{4: "cbam", 5: "none"}}, got {attn_stages!r}')
    chosen = {stage: (gate, own) for stage, gate, own in (_stage_choice(*item) for item in (attn_stages or {}).items())}
    beyond = sorted(stage for stage in chosen if not 0 <= stage < len(model.blocks))
    if beyond:
        raise ValueError(f"attn_stages: {row.name} has stages 0 to {len(model.blocks) - 1}, got {', '.join(map(str, beyond))}")
    gate, own = ATTENTION[attention], dict(attn_kwargs or {})
    for stage, _, block in blocks(model):
        if stage in chosen:
            put_gate(block, chosen[stage][0], {"calm": calm, **chosen[stage][1]})
        elif everywhere or isinstance(getattr(block, "se", None), Slot):
            put_gate(block, gate, {"calm": calm, **own})


class _Spares:
    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """What timm's optimizer factory must not decay: what the gates ask for."""
        gates = [(path, getattr(gate, "no_weight_decay", set)) for path, _, gate in attention_slots(self)]  # type: ignore[arg-type]
        return {f"{path}.{name}" for path, names in gates for name in names()}


class GatedEfficientNet(_Spares, EfficientNet):
    """timm's network with gates in its slots."""


class GatedEfficientNetFeatures(_Spares, EfficientNetFeatures):
    """The same for `features_only=True`."""


_GATED: dict[type, type] = {EfficientNet: GatedEfficientNet, EfficientNetFeatures: GatedEfficientNetFeatures}


def _gated(
    base: str,
    attention: str,
    row: Variant,
    attn_stages: Mapping[Any, Any] | None = None,
    attn_kwargs: Mapping[str, Any] | None = None,
    attn_all: bool | None = None,
    calm: bool = True,
    **kwargs: Any,
) -> nn.Module:
    model = timm.models.model_entrypoint(base)(pretrained=False, se_layer=Slot, **kwargs)
    classifier = getattr(model, "classifier", None)
    if calm and isinstance(classifier, nn.Linear):
        nn.init.normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)
    # last, because gates draw random numbers: with one seed all the rest starts equal whatever the gates
    _put_gates(model, attention, row, attn_stages=attn_stages, attn_kwargs=attn_kwargs, attn_all=attn_all, calm=calm)
    model.__class__ = _GATED[type(model)]
    return model


def create(attention: str, variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build `effnet_<attention>_<variant>`; what `timm.create_model` calls, with timm's arguments and those above.

    Raises:
        KeyError: an attention in `attn_stages` that nobody registered.
        ValueError: `attn_stages` beyond the network, or `se_layer` beside the name's own attention.
        RuntimeError: `pretrained=True` where timm has no such weights, or a file that is not this backbone.
    """
    row, name = VARIANTS[variant], f"effnet_{attention}_{variant}"
    if "se_layer" in kwargs:
        raise ValueError(f"{name}: the name says which attention; leave se_layer out, or choose another name or attn_stages")
    cfg = resolve_pretrained_cfg(name, kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None))
    if pretrained and not cfg.has_weights and not cfg.file and not cfg.state_dict:
        tags = [tagged for tagged in get_arch_pretrained_cfgs(name) if timm.models.is_model_pretrained(tagged)]
        offer = f"these have: {', '.join(tags)}" if tags else "timm has none for this network; use pretrained=False"
        raise RuntimeError(f"{name}{'.' + cfg.tag if cfg.tag else ''} has no pretrained weights; {offer}")
    base = row.tf if row.tf and (cfg.tag or "").startswith(_TF) else row.base

    features = kwargs.pop("features_only", False)
    wrapped = features and ("feature_cls" in kwargs or "feature_cfg" in kwargs)  # timm wraps the network; else it is its own class
    network = functools.partial(_gated, base, attention, row)
    saved = kwargs.get("pretrained_model_args", {})  # of a directory that timm reads, which may be asked for with other gates
    own = cfg.source == "local-dir" and all(kwargs.get(key) == saved.get(key) for key in ("attn_stages", "attn_kwargs", "attn_all"))
    source = "the given weights" if cfg.state_dict else cfg.file or cfg.hf_hub_id or cfg.url
    model: Any = build_model_with_cfg(
        functools.partial(network, features_only=True) if features and not wrapped else network,
        name,
        pretrained,
        pretrained_cfg=cfg.to_dict(),
        features_only=wrapped,
        pretrained_filter_fn=functools.partial(keep_backbone, name=name, source=str(source), own=own),
        **kwargs,
    )
    if features and not wrapped:
        kept = {key: value for key, value in model.pretrained_cfg.items() if key not in ("num_classes", "classifier", "global_pool")}
        model.pretrained_cfg = model.default_cfg = kept
    return model


def offer(attention: str) -> None:
    """Put the attention's names into timm's registry: one for every variant. The gate itself is looked up when a network is built."""
    names = {variant: f"effnet_{attention}_{variant}" for variant in VARIANTS}
    for name in filter(timm.is_model, names.values()):  # also "cbam_v2": its b0 would be the v2_b0 of "cbam"
        raise ValueError(f"attention name {attention!r}: timm already has a model {name!r}; choose another name")
    for variant, name in names.items():
        row = VARIANTS[variant]

        def entrypoint(pretrained: bool = False, *, _attention: str = attention, _variant: str = variant, **kwargs: Any) -> nn.Module:
            return create(_attention, _variant, pretrained, **kwargs)

        entrypoint.__name__ = entrypoint.__qualname__ = name
        entrypoint.__doc__ = f"{row.base} with the attention {attention!r}."
        globals()[name] = entrypoint
        default_cfgs[name] = _pretrained_cfgs(name, row)
        register_model(entrypoint)


ATTENTION.watch(offer)

"""Every name: attention x variant, built on the meta device, its gates counted, its description compared with timm's own."""

import pytest
import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual, SqueezeExcite
from torch import nn

import zoo  # noqa: F401  (fills both registries)
from registry import ATTENTION
from zoo.backbones import VARIANTS, attention_slots

NAMES = {
    *(f"b{i}" for i in range(9)),
    *(f"lite{i}" for i in range(5)),
    *(f"v2_b{i}" for i in range(4)),
    *("l2", "es", "em", "el", "cc_b0_4e", "v2_s", "v2_m", "v2_l", "v2_xl", "test"),
}
BLOCKS = (ConvBnAct, DepthwiseSeparableConv, InvertedResidual, EdgeResidual)


def meta(name: str, **kwargs) -> nn.Module:
    return timm.create_model(name, device="meta", **kwargs)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


def test_every_size_is_there():
    assert set(VARIANTS) == NAMES


def test_the_names_are_the_product():
    names = {f"effnet_{attention}_{variant}" for attention in ATTENTION for variant in VARIANTS}
    assert set(timm.list_models("effnet_*")) == set(timm.list_models(module="effnet")) == names
    assert timm.list_models("effnet_cbam_*b0", module="effnet") == ["effnet_cbam_b0", "effnet_cbam_v2_b0"]
    assert timm.list_models("effnet_*", module="efficientnet") == [], "timm's own module keeps its own names"


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("attention", sorted(ATTENTION))
def test_a_name_never_lies(attention, variant):
    """Every block holds exactly one gate, of the named kind; `se` sits where timm's does, wherever timm has it."""
    model = meta(f"effnet_{attention}_{variant}")
    gates = attention_slots(model)
    assert {name for _, name, _ in gates} <= {attention}
    count = sum(isinstance(block, BLOCKS) for stack in model.blocks for block in stack)
    assert count == sum(len(stack) for stack in model.blocks)
    if attention == "none":
        assert not gates and not any(".se." in key for key in model.state_dict())
    elif attention == "se" and VARIANTS[variant].has_se:
        assert 0 < len(gates) <= count
    else:
        assert len(gates) == count
    for path, _, gate in gates:
        assert model.get_submodule(path) is gate and path.endswith(".se")


SAME = (
    *("input_size", "test_input_size", "pool_size", "num_classes", "first_conv", "classifier"),
    *("mean", "std", "interpolation", "crop_pct", "test_crop_pct"),
)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_against_timms_own(variant):
    """Key for key, in order, with the same sizes, and described in the same words."""
    row = VARIANTS[variant]
    timms, plain = meta(row.base), meta(f"effnet_none_{variant}")
    assert any(isinstance(module, SqueezeExcite) for module in timms.modules()) == row.has_se
    if row.has_se:
        assert list(shapes(meta(f"effnet_se_{variant}")).items()) == list(shapes(timms).items())
    trunk = {key: shape for key, shape in shapes(timms).items() if ".se." not in key}
    assert list(shapes(plain).items()) == list(trunk.items())

    assert plain.default_cfg["architecture"] == f"effnet_none_{variant}"
    assert {key: plain.default_cfg.get(key) for key in SAME} == {key: timms.default_cfg.get(key) for key in SAME}


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=() if name in ("b1", "lite2", "es", "v2_b1", "test") else pytest.mark.long) for name in VARIANTS]
)
def test_the_described_sizes_are_right(variant):
    row, model = VARIANTS[variant], meta(f"effnet_none_{variant}")
    with torch.no_grad():
        features = model.forward_features(torch.empty(1, *model.default_cfg["input_size"], device="meta"))
    assert tuple(features.shape) == (1, model.num_features, *model.default_cfg["pool_size"])
    if row.tf:
        assert shapes(meta(row.tf)) == shapes(meta(row.base)), "its weights fit"


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_weights_are_timms(variant):
    """Every tag of timm's points to timm's own place on the hub, the default is the default, TensorFlow's carry tf_."""
    name, row = f"effnet_cbam_{variant}", VARIANTS[variant]
    ours = {key.partition(".")[2]: cfg for key, cfg in get_arch_pretrained_cfgs(name).items()}
    wanted = {key.partition(".")[2]: cfg for key, cfg in get_arch_pretrained_cfgs(row.base).items()}
    converted = {"tf_" + key.partition(".")[2]: cfg for key, cfg in get_arch_pretrained_cfgs(row.tf).items()} if row.tf else {}
    wanted.update({tag: cfg for tag, cfg in converted.items() if cfg.has_weights})
    assert set(ours) == set(wanted)
    for tag, cfg in ours.items():
        assert cfg.hf_hub_id == wanted[tag].hf_hub_id and cfg.url is None
        assert cfg.hf_hub_id is None or cfg.hf_hub_id.startswith(("timm/efficientnet", "timm/tf_efficientnet", "timm/test_efficientnet"))
        assert (cfg.input_size, cfg.mean, cfg.num_classes) == (wanted[tag].input_size, wanted[tag].mean, wanted[tag].num_classes)
        assert timm.models.is_model_pretrained(f"{name}.{tag}") == bool(wanted[tag].has_weights)
    base = timm.models.get_pretrained_cfg(row.base)
    assert timm.models.get_pretrained_cfg(name).tag == base.tag
    assert timm.models.is_model_pretrained(name) == bool(base.has_weights)


@pytest.mark.long
@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"l2", "b8", "v2_xl"}))
@pytest.mark.parametrize("attention", ["cbam", "eca", "se"])
def test_every_name_runs(attention, variant):
    model = timm.create_model(f"effnet_{attention}_{variant}", num_classes=3).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, 64, 64)).isfinite().all()

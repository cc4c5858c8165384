"""Computing again instead of keeping: the same numbers, less kept."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import set_checkpoint_early_stop

import zoo
from zoo.backbones import recompute
from zoo.backbones.recompute import check_recomputable, recomputed

NETWORKS = {
    "inverted and depthwise": ("effnet_cbam_b0", {}),
    "no gate": ("effnet_none_lite0", {}),
    "fused": ("effnet_se_v2_s", {}),
    "fused, 'same' padding": ("effnet_bam_es", {"pad_type": "same"}),  # a gate with batch norms of its own
    "anti-aliased": ("efficientnet_b0", {"aa_layer": "avg"}),
    "timm's": ("mobilenetv3_small_050", {}),
}


def build(network: str, **options) -> nn.Module:
    name, own = NETWORKS[network]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, drop_path_rate=0.3, **own, **options)
    for stack in model.blocks:
        del stack[1:]  # one block of each kind is enough
    return model


def step(model: nn.Module, x: torch.Tensor, precision: str = "fp32"):
    """Gradients and statistics after one step."""
    torch.manual_seed(1)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = model(x).float().square().mean()
    loss.backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    return gradients, {name: each.clone() for name, each in model.named_buffers()}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(each, b[key]) for key, each in a.items())


def saved(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes kept for the backward pass, each storage once; parameters and buffers are there anyway."""
    own = {each.untyped_storage().data_ptr() for each in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    return sum(kept.values()) if output.requires_grad else 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_and_statistics_are_the_same_to_the_last_bit(network, precision):
    plain = build(network)
    again = copy.deepcopy(plain)
    x = torch.randn(2, 3, 64, 64)
    before = {name: each.clone() for name, each in plain.named_buffers()}
    gradients, statistics = step(plain, x, precision)
    with recomputed(again):
        found, counted = step(again, x, precision)
    assert equal(found, gradients) and equal(counted, statistics) and not equal(statistics, before)
    assert [type(module) for module in again.modules()] == [type(module) for module in plain.modules()]
    assert again.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("network", NETWORKS)
def test_less_is_kept(network):
    model, x = build(network), torch.randn(4, 3, 64, 64)
    whole = saved(model, x)
    with recomputed(model):
        assert saved(model, x) < 0.75 * whole  # the stem and the head, which keep theirs, weigh more in a network cut short


def test_a_whole_b0_keeps_at_most_six_tenths():
    model, x = timm.create_model("effnet_cbam_b0"), torch.randn(1, 3, 64, 64)
    whole = saved(model, x)
    with recomputed(model):
        assert saved(model, x) <= 0.6 * whole


def test_without_the_guard_statistics_are_counted_twice(monkeypatch):
    """The control: a batch norm that is run again does not know that it is."""
    monkeypatch.setattr(recompute, "_without_traces", lambda stretch: recompute.nullcontext())
    plain = build("inverted and depthwise")
    again = copy.deepcopy(plain)
    x = torch.randn(2, 3, 64, 64)
    gradients, statistics = step(plain, x)
    with recomputed(again):
        found, counted = step(again, x)
    assert equal(found, gradients) and not equal(counted, statistics)


@pytest.mark.parametrize("early", [True, False])
def test_a_convolution_is_not_run_again(early):
    """It would be if the second run went on to the end of its stretch, which is the control."""
    model = build("no gate")
    with recomputed(model), set_checkpoint_early_stop(early):
        loss = model(torch.randn(2, 3, 64, 64)).mean()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loss.backward()
    assert ("aten::_convolution" in {event.name for event in profile.events()}) == (not early)


def test_a_frozen_norm_stays_and_a_frozen_trunk_gets_no_gradient():
    plain = build("inverted and depthwise")
    for module in plain.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    plain.blocks[:3].requires_grad_(False)
    plain.conv_stem.requires_grad_(False)
    plain.bn1.requires_grad_(False)
    again, x = copy.deepcopy(plain), torch.randn(2, 3, 64, 64)
    before = {name: each.clone() for name, each in plain.named_buffers()}
    gradients, statistics = step(plain, x)
    with recomputed(again):
        found, counted = step(again, x)
    assert equal(found, gradients) and equal(counted, before) and equal(statistics, before)


def test_gates_that_are_handed_over():
    plain = build("inverted and depthwise")
    zoo.swap_attention(plain, "bam", keep="graft")
    again, x = copy.deepcopy(plain), torch.randn(2, 3, 64, 64)
    gradients, statistics = step(plain, x)
    with recomputed(again):
        found, counted = step(again, x)
    assert equal(found, gradients) and equal(counted, statistics)


def test_a_network_without_such_blocks_is_refused():
    with pytest.raises(ValueError, match="no EfficientNet block"):
        check_recomputable(timm.create_model("resnet18"))
    check_recomputable(timm.create_model("effnet_se_test"))

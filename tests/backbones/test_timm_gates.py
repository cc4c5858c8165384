"""What timm's gates are called, how one is read, and when one holds another's function: measured, never believed."""

import pytest
import timm
import torch
from timm.layers import create_attn, get_attn
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.hgnet import EseModule
from timm.models.senet import SEModule as LegacySEModule
from torch import nn

from registry import ATTENTION
from zoo.attention import ECA, ESE, FCA, SE
from zoo.backbones import timm_gates
from zoo.backbones.timm_gates import TIMM_GATES, act_name, activation, bottleneck, gate_name, move, same_function


def stirred(gate: nn.Module) -> nn.Module:
    with torch.no_grad():
        for value in gate.parameters():
            value.normal_()
    return gate.eval()


def test_every_class_has_one_name():
    for gate, name in TIMM_GATES.items():
        if gate is not get_attn("ge"):  # which timm 1.0.31 cannot build
            assert gate_name(gate(16, 4) if gate is LegacySEModule else gate(16)) == name
    for name in ("se", "eca", "cbam", "simam"):
        assert gate_name(ATTENTION[name](16)) == name
    assert gate_name(nn.Conv2d(1, 1, 1)) is None and gate_name(get_attn("sk")(16, 16)) is None, "in the place of a convolution: no gate"


def test_our_own_class_goes_before_timms():
    assert issubclass(SE, SqueezeExcite) and gate_name(SE(16)) == "se" and gate_name(SqueezeExcite(16)) == "se"


@pytest.mark.parametrize(
    "gate, width, act",
    [
        (lambda: SqueezeExcite(64, rd_channels=6, act_layer=nn.SiLU), 6, "silu"),
        (lambda: create_attn("se", 64, rd_channels=12), 12, "relu"),
        (lambda: LegacySEModule(64, 16), 4, "relu"),
        (lambda: create_attn("cbam", 64, rd_channels=10), 10, "relu"),
        (lambda: create_attn("gc", 64, rd_channels=14), 14, "relu"),
        (lambda: create_attn("coord", 64, rd_channels=20), 20, "hard_swish"),
        (lambda: create_attn("eca", 64), None, None),
        (lambda: create_attn("ese", 64), None, None),
        (lambda: EseModule(64), None, None),
        (lambda: SqueezeExcite(64, rd_channels=6, act_layer="prelu"), 6, "prelu"),
    ],
    ids=["efficientnet", "se", "senet", "cbam", "gc", "coord", "eca", "ese", "hgnet", "prelu"],
)
def test_how_a_gate_is_read(gate, width, act):
    assert (bottleneck(gate()), activation(gate())) == (width, act)


def test_an_activation_that_timm_has_no_name_for():
    assert act_name(nn.Softplus()) is None and act_name(None) is None and act_name(nn.Hardswish()) == "hard_swish"


SAME = {
    "EfficientNet's": (lambda: SqueezeExcite(24, rd_channels=6, act_layer=nn.SiLU), lambda: SE(24, rd_ratio=0.25, act_layer="silu")),
    "timm's other names": (lambda: create_attn("se", 24, rd_channels=6), lambda: SE(24, rd_ratio=0.25)),
    "senet's": (lambda: LegacySEModule(24, 4), lambda: SE(24, rd_ratio=0.25)),
    "eca": (lambda: create_attn("eca", 24), lambda: ECA(24)),
    "ese": (lambda: create_attn("ese", 24), lambda: ESE(24)),
    "fca": (lambda: FCA(24), lambda: FCA(24)),  # its waves are constants that no state dict holds
}
OTHER = {
    "another activation": (lambda: SqueezeExcite(24, rd_channels=6, act_layer=nn.SiLU), lambda: SE(24, rd_ratio=0.25, act_layer="relu")),
    "a hard sigmoid": (lambda: SqueezeExcite(24, rd_channels=6, gate_layer="hard_sigmoid"), lambda: SE(24, rd_ratio=0.25)),
    "hgnet's ese is a soft one": (lambda: EseModule(24), lambda: ESE(24)),
    "another width": (lambda: SqueezeExcite(24, rd_channels=8), lambda: SE(24, rd_ratio=0.25)),
    "another kernel": (lambda: create_attn("eca", 24), lambda: ECA(24, kernel_size=7)),
    "another gate": (lambda: SqueezeExcite(24), lambda: ECA(24)),
    "other waves": (lambda: FCA(24), lambda: FCA(24, rd_ratio=0.125)),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_function_moves_over(case):
    old, new = stirred(SAME[case][0]()), SAME[case][1]().eval()
    x = torch.randn(2, 24, 11, 6)
    kept = {key: value.clone() for key, value in old.state_dict().items()}
    assert not torch.allclose(new(x), old(x), atol=1e-3), "the control"
    assert move(old, new, 24)
    assert torch.allclose(new(x), old(x), atol=1e-6)
    assert all(torch.equal(value, kept[key]) for key, value in old.state_dict().items()), "it was tried on a copy"


@pytest.mark.parametrize("case", OTHER)
def test_another_function_does_not(case):
    old, new = stirred(OTHER[case][0]()), OTHER[case][1]()
    before = {key: value.clone() for key, value in new.state_dict().items()}
    assert not move(old, new, 24)
    assert all(torch.equal(value, before[key]) for key, value in new.state_dict().items())


def test_a_start_at_which_two_gates_agree_does_not_deceive():
    """At zero a hard and a soft sigmoid are both one half."""
    old, new = SqueezeExcite(24, rd_channels=6, gate_layer="hard_sigmoid"), SE(24, rd_ratio=0.25, calm=True)
    for value in old.parameters():
        nn.init.zeros_(value)
    x = torch.randn(1, 24, 5, 5)
    assert torch.allclose(old(x), new(x)) and not same_function(old, new, 24)


@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_every_registered_gate_holds_its_own_function(name):
    gates = [ATTENTION[name](32) for _ in range(2)]
    assert same_function(*gates, 32)


def test_on_the_meta_device():
    assert same_function(SqueezeExcite(24, rd_channels=6, device="meta"), SE(24, rd_ratio=0.25, device="meta"), 24)
    assert not same_function(FCA(24, device="meta"), FCA(24, device="meta"), 24), "nobody knows its waves"


def test_nothing_random_is_drawn_from_the_callers_stream():
    gates = SqueezeExcite(24, rd_channels=6), SE(24, rd_ratio=0.25)
    before = torch.get_rng_state()
    same_function(*gates, 24)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_the_measurement_hard_sigmoids_would_change(monkeypatch):
    """The guard: MobileNetV3's gates have the same tensors and a hard sigmoid."""
    from zoo import swap_attention

    def outcome():
        torch.manual_seed(0)
        model = timm.create_model("mobilenetv3_small_050").eval()
        for _, gate in ((n, m) for n, m in model.named_modules() if isinstance(m, SqueezeExcite)):
            stirred(gate)
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            before = model(x)
            how = {change.how for change in swap_attention(model, "se")}
            return how, float((model.eval()(x) - before).abs().max())

    assert outcome() == ({"handed over"}, 0.0)
    monkeypatch.setattr(timm_gates, "same_function", lambda *gates: True)
    how, difference = outcome()
    assert how == {"moved"} and difference > 1e-4

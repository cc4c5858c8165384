"""Another attention in a network that has learned something: the same function afterwards, all else untouched, or nothing changed."""

import copy
import csv
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

import zoo
from registry import ATTENTION
from zoo.attention import CBAM, ECA, SE
from zoo.backbones.graft import HandOver
from zoo.backbones.slots import GatedConvBnAct, stage

DATA = Path(__file__).parents[2] / "../shared/data"
WEIGHTS = DATA / "pretrained/mobilenetv2_100_tf_in1k.safetensors"
OTHERS = sorted(set(ATTENTION) - {"none"})


def learned(name: str, **kwargs) -> nn.Module:
    """A network whose weights no initialisation would give, in eval mode."""
    model = timm.create_model(name, **{"num_classes": 5, **kwargs})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def out(model: nn.Module, size: int = 48) -> torch.Tensor:
    """What it says to two pictures, in eval mode."""
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(x.to(next(model.parameters()).dtype))


def names(model: nn.Module) -> list[str]:
    return [name for _, name, _ in zoo.attention_slots(model)]


def everything(model: nn.Module) -> tuple:
    """All that a failed swap must leave alone."""
    return (
        [(path, type(module), id(module), module.training, len(module._forward_pre_hooks)) for path, module in model.named_modules()],
        [(key, value.data_ptr(), value._version) for key, value in model.state_dict(keep_vars=True).items()],
        copy.deepcopy(model.pretrained_cfg),
        copy.deepcopy(model._model_args),
    )


# ---- the function stays


@pytest.mark.parametrize("to", OTHERS)
def test_a_graft_is_the_same_network(to):
    model = learned("effnet_se_test", attn_all=True)
    before = out(model)
    report = zoo.swap_attention(model, to, keep="graft")
    assert torch.equal(out(model), before) and len(report) == 5
    assert {change.how for change in report} == ({"moved"} if to == "se" else {"handed over"})
    if to != "se":
        zoo.set_share(model, 1.0)
        assert not torch.equal(out(model), before), "the control: the new gate is really there"


@pytest.mark.parametrize("to", OTHERS)
def test_a_finished_swap_is_the_network_of_that_name(to):
    """Every tensor and every module: nothing of the old gate is left, nothing of the hand-over either."""
    model = learned("effnet_se_test", attn_all=True)
    zoo.swap_attention(model, to, keep="graft")
    if to != "se":
        zoo.set_share(model, 1.0)
        whole = out(model)
        report = zoo.finish_swap(model)
        assert {change.how for change in report} == {"complete"} and torch.equal(out(model), whole)
    plain = timm.create_model(f"effnet_{to}_test", attn_all=True, num_classes=5)
    assert [(path, type(module)) for path, module in model.named_modules()] == [(p, type(m)) for p, m in plain.named_modules()]
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    plain.load_state_dict(model.state_dict())
    assert torch.equal(out(plain), out(model)), "reduction and activation are those of EfficientNet's"


def test_fresh_puts_the_new_gate_in_at_once():
    model = learned("effnet_se_test")
    trunk = {key: value.clone() for key, value in model.state_dict().items() if ".se." not in key}
    before = out(model)
    report = zoo.swap_attention(model, "cbam", keep="fresh")
    assert [change.how for change in report] == ["fresh", "fresh"] and names(model) == ["cbam", "cbam"]
    assert not torch.equal(out(model), before) and not any(isinstance(module, HandOver) for module in model.modules())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in trunk.items())
    assert all(gate.calm for _, _, gate in zoo.attention_slots(model))


@pytest.mark.parametrize(
    "name, to, how",
    [
        ("test_efficientnet", "se", "moved"),
        ("test_byobnet", "se", "moved"),
        ("mobilenetv3_small_050", "se", "handed over"),  # a hard sigmoid
        ("test_nfnet", "se", "moved"),
        ("effnet_eca_test", "eca", "moved"),
        ("ese_vovnet19b_slim_dw", "ese", "moved"),
    ],
)
def test_weights_move_where_the_function_is_the_same(name, to, how):
    model = learned(name)
    before = out(model, 64)
    report = zoo.swap_attention(model, to)
    assert {change.how for change in report} == {how}
    assert torch.allclose(out(model, 64), before, atol=1e-5)
    if how == "moved":
        assert all(type(gate) is ATTENTION[to] for _, _, gate in zoo.attention_slots(model))
        with pytest.raises(ValueError, match="no gate is being handed over"):
            zoo.finish_swap(model)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "effnet_none_v2_s", "mobilenetv2_050", "ghostnet_050"])
def test_blocks_without_a_gate(name):
    """None anywhere: every block gets one, the plain convolution blocks at the start of V2 too."""
    model = learned(name)
    before = out(model, 32)
    report = zoo.swap_attention(model, "eca", **({"where": "blocks.9.*"} if name == "ghostnet_050" else {}))
    assert torch.equal(out(model, 32), before) and {change.old for change in report} == {"none"}
    assert len(report) == {"efficientnet_lite0": 16, "effnet_none_v2_s": 40, "mobilenetv2_050": 17, "ghostnet_050": 1}[name]
    assert any(type(module) is GatedConvBnAct for module in model.modules()) == (name not in ("efficientnet_lite0", "mobilenetv2_050"))
    zoo.set_share(model, 1.0)
    assert not torch.equal(out(model, 32), before)
    zoo.swap_attention(model, "none", keep="fresh", where=[change.slot for change in report])
    assert torch.equal(out(model, 32), before), "taken out again"


def test_nfnet_keeps_its_gain():
    """It multiplies what a gate gives by two; a hand-over is multiplied like the gate that it replaces."""
    model = learned("test_nfnet")
    before = out(model)
    assert len(zoo.swap_attention(model, "cbam")) == 4 and torch.equal(out(model), before)
    state = everything(model)
    for keep in ("graft", "fresh"):
        with pytest.raises(ValueError, match="NormFreeNet multiplies what its gates give by a gain: .* cannot go without one"):
            zoo.swap_attention(model, "none", keep=keep)
    assert everything(model) == state


@pytest.mark.parametrize(
    "name, kind",
    [("legacy_seresnext26_32x4d", "se"), ("eca_nfnet_l0", "eca"), ("efficientvim_m1", "se"), ("gcvit_xxtiny", "se"), ("hgnet_tiny", "ese")],
)
def test_gates_that_hide(name, kind):
    """A private class, one without a channel count, one inside a Sequential: found, with the channels of the map that reaches them."""
    model = timm.create_model(name, device="meta")
    found = [(path, shown) for path, shown, _ in zoo.attention_slots(model)]
    assert found and {shown for _, shown in found} == {kind}
    zoo.swap_attention(model, "cbam", keep="fresh")
    assert [(path, shown) for path, shown, _ in zoo.attention_slots(model)] == [(path, "cbam") for path, _ in found]
    model(torch.empty(1, *model.pretrained_cfg["input_size"], device="meta"))


def test_channels_of_a_gate_that_knows_none():
    model = timm.create_model("eca_resnext26ts", device="meta")
    report = zoo.swap_attention(model, "srm", keep="fresh")
    widths = [model.get_submodule(change.slot.rpartition(".")[0]).conv2_kxk.conv.out_channels for change in report]
    assert [model._model_args["slots"][change.slot]["channels"] for change in report] == widths and len(widths) == 8


# ---- which slots


def test_by_default_every_gate_and_no_empty_place():
    model = learned("effnet_se_test")
    assert [change.slot for change in zoo.swap_attention(model, "eca")] == ["blocks.3.0.se", "blocks.4.0.se"]


@pytest.mark.parametrize(
    "which, slots",
    [
        ({"stages": 4}, "4"),
        ({"stages": [0, 3]}, "03"),
        ({"stages": (1,)}, "1"),
        ({"where": "blocks.[12].*"}, "12"),
        ({"where": ["blocks.0.*", "*.4.*"]}, "04"),
        ({"where": lambda path: path.startswith("blocks.2")}, "2"),
        ({"stages": [0, 1, 4], "where": "blocks.[14].*"}, "14"),
    ],
    ids=str,
)
def test_the_slots_that_are_named(which, slots):
    model = learned("effnet_se_test")
    before = out(model)
    report = zoo.swap_attention(model, "eca", **which)
    assert [change.slot for change in report] == [f"blocks.{number}.0.se" for number in slots] and torch.equal(out(model), before)
    assert [change.old for change in report] == ["se" if number in "34" else "none" for number in slots]


@pytest.mark.parametrize(
    "path, number",
    [
        ("blocks.5.1.se", 5),
        ("stages.2.0.attn_last", 2),
        ("stages.3.downsample.patchmerge.se", 3),
        ("layer1.0.se", 0),
        ("body.layer4.2.se", 3),
        ("s4.b2.se", 3),
        ("features.3.se", 3),
        ("dense_stages.2.2.dense_block0.layers.layers.5", 2),
        ("final_conv.se", None),
        ("stem.down.conv_block.se", None),
    ],
)
def test_the_stage_of_a_path(path, number):
    assert stage(path) == number


def test_timms_own_numbering():
    model = timm.create_model("seresnet18", device="meta")
    assert [change.slot for change in zoo.swap_attention(model, "eca", stages=[3])] == ["layer4.0.se", "layer4.1.se"]


def test_none_takes_gates_out():
    model = learned("effnet_se_test")
    before = out(model)
    report = zoo.swap_attention(model, "none")
    assert [(change.slot, change.how) for change in report] == [("blocks.3.0.se", "handed over"), ("blocks.4.0.se", "handed over")]
    assert torch.equal(out(model), before) and names(model) == ["se>none", "se>none"]
    zoo.set_share(model, 1.0)
    whole = out(model)
    zoo.finish_swap(model)
    assert names(model) == [] and torch.equal(out(model), whole) and type(model.blocks[4][0].se) is nn.Identity


# ---- what the new gate is given


def test_the_old_gates_reduction_and_activation():
    model = timm.create_model("seresnet18", device="meta")
    widths = {path: (gate.fc1.out_channels, gate.fc1.in_channels) for path, _, gate in zoo.attention_slots(model)}
    zoo.swap_attention(model, "cbam", keep="fresh")
    for path, _, gate in zoo.attention_slots(model):
        assert gate.channel.fc1.out_features == widths[path][0] and isinstance(gate.channel.act, nn.ReLU)


def test_through_a_hand_over_they_arrive_as_well():
    model = learned("effnet_se_test")
    zoo.swap_attention(model, "cbam")
    zoo.swap_attention(model, "se")
    for _, _, gate in zoo.attention_slots(model):
        old = gate.old.old
        assert gate.new.conv_reduce.out_channels == old.conv_reduce.out_channels and isinstance(gate.new.act1, type(old.act1))


def test_own_options_go_before():
    model = learned("effnet_se_test")
    zoo.swap_attention(model, "cbam", keep="fresh", attn_kwargs={"rd_ratio": 0.5, "act_layer": "gelu", "kernel_size": 3, "calm": False})
    for _, _, gate in zoo.attention_slots(model):
        assert gate.spatial.conv.kernel_size == (3, 3) and type(gate.channel.act).__name__ == "GELU" and not gate.calm
        assert gate.channel.fc1.out_features * 2 == gate.channel.fc1.in_features


def test_options_are_not_shared_with_the_caller():
    model, own = learned("effnet_se_test"), {"kernel_size": 3}
    zoo.swap_attention(model, "cbam", keep="fresh", attn_kwargs=own)
    own["kernel_size"] = 5
    assert {each["options"]["kernel_size"] for each in model._model_args["slots"].values()} == {3}


# ---- what stays as it is


def test_modes_stay_part_by_part():
    model = learned("effnet_se_test").train()
    model.blocks[1].eval()
    model.blocks[3][0].bn1.eval()
    modes = {path: module.training for path, module in model.named_modules() if ".se" not in path}
    zoo.swap_attention(model, "cbam", keep="graft")
    zoo.finish_swap(model, torch.randn(1, 3, 32, 32))
    assert {path: module.training for path, module in model.named_modules() if ".se" not in path} == modes
    assert all(gate.training for _, _, gate in zoo.attention_slots(model))
    model = learned("effnet_se_test").eval()
    zoo.swap_attention(model, "cbam")
    assert not any(module.training for module in model.modules())


def test_batch_statistics_and_the_weights_stay():
    model = learned("effnet_se_test").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    zoo.swap_attention(model, "cbam", keep="graft")
    found = {key.replace(".old.", "."): value for key, value in model.state_dict().items()}
    assert all(torch.equal(found[key], value) for key, value in before.items())


@pytest.mark.parametrize("to", ["cbam", "se"])
def test_half_precision(to):
    model = learned("effnet_se_test").to(torch.bfloat16)
    before = out(model)
    zoo.swap_attention(model, to)
    assert torch.equal(out(model), before)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    zoo.set_share(model, 1.0)
    after = out(model)
    if to != "se":
        zoo.finish_swap(model)
    assert torch.equal(out(model), after)


def test_on_the_meta_device():
    model = timm.create_model("test_efficientnet", device="meta")
    assert {change.how for change in zoo.swap_attention(model, "se")} == {"moved"}
    zoo.swap_attention(model, "cbam")
    zoo.finish_swap(model)
    assert names(model) == ["cbam", "cbam"] and all(value.is_meta for value in model.state_dict().values())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["effnet_se_test", "test_byobnet"])
def test_copies_are_whole_and_apart(copied, name, tmp_path):
    model = learned(name)
    zoo.swap_attention(model, "eca", **({"stages": [0, 4]} if name == "effnet_se_test" else {}))
    zoo.set_share(model, 0.5)
    other = copied(model)
    assert torch.equal(out(other), out(model))
    zoo.finish_swap(other)
    assert any(">" in shown for shown in names(model)) and not any(">" in shown for shown in names(other))
    assert any("from" in each for each in model._model_args["slots"].values())
    zoo.save_model(model, tmp_path)
    assert torch.equal(out(timm.create_model(f"local-dir:{tmp_path}", pretrained=True)), out(model))


def test_gradients_reach_old_and_new():
    model = learned("effnet_se_test").train()
    zoo.swap_attention(model, "eca")
    zoo.set_share(model, 0.5)
    model(torch.randn(2, 3, 48, 48)).square().sum().backward()
    for _, _, gate in zoo.attention_slots(model):
        assert all(parameter.grad.any() for parameter in gate.parameters())


def test_compiled_and_exported():
    model = learned("effnet_se_test")
    zoo.swap_attention(model, "cbam")
    zoo.set_share(model, 0.5)
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.allclose(torch.export.export(model, (x,)).module()(x), model(x), atol=1e-5)


# ---- swapped again


def test_a_swap_inside_a_hand_over():
    model = learned("effnet_se_test")
    zoo.swap_attention(model, "cbam")
    zoo.set_share(model, 0.5)
    before = out(model)
    report = zoo.swap_attention(model, "eca", stages=4)
    assert [(change.old, change.new, change.how) for change in report] == [("se>cbam", "eca", "handed over")]
    assert torch.equal(out(model), before) and names(model) == ["se>cbam", "se>cbam>eca"]
    done = zoo.finish_swap(model)
    assert [(change.new, change.how) for change in done] == [("cbam", "cut short at 50%"), ("eca", "cut short at 0%")]
    assert names(model) == ["cbam", "eca"] and not any(".old." in key for key in model.state_dict())


def test_there_and_back_again():
    model = learned("effnet_se_test")
    for to in ("cbam", "eca", "se"):
        before = out(model)
        zoo.swap_attention(model, to)
        assert torch.equal(out(model), before)
        zoo.set_share(model, 1.0)
        zoo.finish_swap(model)
    assert names(model) == ["se", "se"] and all(type(gate) is SE for _, _, gate in zoo.attention_slots(model))


# ---- the report


def test_the_report_is_a_table():
    model = timm.create_model("effnet_se_test")
    gate = model.blocks[3][0].se
    report = zoo.swap_attention(model, "cbam")
    new = CBAM(gate.conv_reduce.in_channels, rd_ratio=gate.conv_reduce.out_channels / gate.conv_reduce.in_channels)
    assert report[0].before == sum(p.numel() for p in gate.parameters()) and report[0].after == sum(p.numel() for p in new.parameters())
    lines = str(report).splitlines()
    assert lines[0].split() == ["slot", "old", "new", "parameters", "how"]
    assert lines[2].split()[:3] == ["blocks.3.0.se", "se", "cbam"] and lines[2].endswith("handed over")
    assert lines[4].startswith("2 slots") and lines[-1] == report.note and "2 gates take over while zoo.fit trains" in report.note
    assert [change.slot for change in report] == ["blocks.3.0.se", "blocks.4.0.se"] and len(report[:1]) == 1


def test_finish_says_what_it_changed():
    model, x = learned("effnet_se_test"), torch.randn(2, 3, 48, 48)
    zoo.swap_attention(model, "cbam")
    zoo.set_share(model, 0.25)
    before = model(x).detach()
    report = zoo.finish_swap(model, x)
    after = model(x).detach()
    assert report.difference == pytest.approx((float((after - before).abs().max()), float(before.abs().max())), rel=1e-4)
    assert report.difference[0] > 0 and "cut short at 25%" in str(report) and "2 had not taken over whole" in report.note
    again = learned("effnet_se_test")
    zoo.swap_attention(again, "cbam")
    zoo.set_share(again, 1.0)
    report = zoo.finish_swap(again, x)
    assert report.difference[0] == 0.0 and "had not" not in report.note
    with pytest.raises(ValueError, match="no gate is being handed over; swap_attention"):
        zoo.finish_swap(again)


def test_finish_of_what_holds_a_network():
    model = learned("effnet_se_test")
    holder = nn.ModuleDict({"image": model, "text": nn.Linear(2, 2)})
    zoo.swap_attention(model, "eca")
    assert len(zoo.finish_swap(holder)) == 2 and names(model) == ["eca", "eca"]
    assert not any("from" in each for each in model._model_args["slots"].values())


# ---- refused, and nothing has happened


class Plain(nn.Module):
    """A network of nobody's, with one of our gates in it."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 8, 3), ECA(8)

    def forward(self, x):
        return self.gate(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize(
    "asked, error, told",
    [
        (("cbamm",), KeyError, "did you mean 'cbam'"),
        (("cbam", {"keep": "grafted"}), ValueError, "keep: expected graft or fresh, got 'grafted'"),
        (("cbam", {"attn_kwargs": {"kernel": 3}}), TypeError, "kernel"),
        (("eca", {"attn_kwargs": {"kernel_size": 4}}), ValueError, "expected an odd number such as 3 or 5, got 4"),
        (("cbam", {"attn_kwargs": {"act_layer": nn.ReLU}}), ValueError, "attn_kwargs: expected what JSON can hold, such as"),
        (("cbam", {"stages": [4, 9]}), ValueError, "stages: GatedEfficientNet has slots in stages 0, 1, 2, 3, 4, got 9"),
        (("cbam", {"stages": -1}), ValueError, "got -1"),
        (("cbam", {"stages": []}), ValueError, "stages: expected one or more, got none"),
        (
            ("cbam", {"where": "blocks.3.0.es"}),
            ValueError,
            "matches none of the 5 slots of GatedEfficientNet; did you mean 'blocks.3.0.se'",
        ),
        (("cbam", {"where": ["x", "y"]}), ValueError, "matches none .* they are blocks.0.0.se, "),
        (("cbam", {"where": lambda path: False}), ValueError, "matches none"),
        (("cbam", {"where": lambda path: 1 / 0}), ZeroDivisionError, "division"),
        (("none", {"stages": 0}), ValueError, "has no gate there to take out"),
    ],
    ids=str,
)
def test_a_mistake_changes_nothing(asked, error, told):
    model = learned("effnet_se_test").train()
    model.blocks[1].eval()
    before = everything(model)
    with pytest.raises(error, match=told):
        zoo.swap_attention(model, asked[0], **(asked[1] if len(asked) > 1 else {}))
    assert everything(model) == before


def test_a_gate_that_fails_in_the_last_slot_changes_nothing(try_attention):
    class Narrow(nn.Identity):
        def __init__(self, channels, **_):
            super().__init__()
            if channels > 150:
                raise ValueError(f"{channels} channels are too many")

    try_attention("narrow", Narrow)
    model = learned("effnet_se_test", attn_all=True)
    before = everything(model)
    with pytest.raises(ValueError, match="channels are too many"):
        zoo.swap_attention(model, "narrow")
    assert everything(model) == before


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_convnext"])
def test_a_network_without_a_place_is_refused_with_the_reason(name):
    model = timm.create_model(name)
    before = everything(model)
    with pytest.raises(
        ValueError, match="has no attention gate and no EfficientNet block, so there is nothing to swap; a gate can be swapped"
    ):
        zoo.swap_attention(model, "cbam")
    assert everything(model) == before


def test_a_gate_that_no_map_reaches_is_refused():
    model = Plain()
    model.forward = lambda x: x
    with pytest.raises(ValueError, match="Plain: gate never saw a .* map"):
        zoo.swap_attention(model, "se")
    assert type(model.gate) is ECA


def test_a_network_of_nobodys_is_swapped_but_cannot_be_described(tmp_path):
    model = Plain().eval()
    before = model(torch.ones(1, 3, 8, 8))
    assert len(zoo.swap_attention(model, "se")) == 1
    assert torch.equal(model(torch.ones(1, 3, 8, 8)), before)
    assert len(zoo.finish_swap(model)) == 1 and type(model.gate) is SE
    with pytest.raises(ValueError, match="expected a whole network from timm.create_model, got Plain"):
        zoo.save_model(model, tmp_path / "run")


def test_timms_other_attentions_stand_in_the_place_of_a_convolution():
    model = timm.create_model("skresnet18", device="meta")
    with pytest.raises(ValueError, match="nothing to swap"):
        zoo.swap_attention(model, "cbam")
    assert not any(isinstance(module, SqueezeExcite) for module in model.modules())


# ---- real weights


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS} is not there")
@pytest.mark.parametrize("to", OTHERS)
def test_a_photograph_is_still_recognised(to, photographs):
    model, pictures, before = photographs
    model = copy.deepcopy(model)
    zoo.swap_attention(model, to, **({"stages": [5, 6]} if to == "nl" else {}))  # whose matrix of every pixel by every other is large
    with torch.no_grad():
        after = model.eval()(pictures)
    assert torch.equal(after.topk(3).indices, before.topk(3).indices) and float((after - before).abs().max()) <= 1e-5


@pytest.fixture(scope="module")
def photographs():
    """(network, a photograph, its logits); all ten must give the classes that are known."""
    folder = DATA / "smoke_images"
    model = timm.create_model("mobilenetv2_100", pad_type="same", bn_eps=1e-3)
    model.load_state_dict(safetensors.torch.load_file(WEIGHTS))
    with (folder / "expected_mobilenetv2.csv").open() as file:
        rows = list(csv.DictReader(file))
    transform = timm.data.create_transform((3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)
    pictures = torch.stack([transform(Image.open(folder / row["file"]).convert("RGB")) for row in rows])
    with torch.no_grad():
        found = model.eval()(pictures)
        assert found.topk(3).indices.tolist() == [[int(row[f"top{place}"]) for place in (1, 2, 3)] for row in rows]
        return model, pictures[:1], model(pictures[:1])

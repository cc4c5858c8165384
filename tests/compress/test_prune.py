"""Pruning: every expanded width shrinks under every gate, silent channels go without a trace, and the target is met or refused."""

import builtins
import copy
import warnings

import pytest
import timm
import torch
from torch import nn

import zoo
from registry import ATTENTION
from zoo.backbones.macs import count_macs
from zoo.backbones.pruned import Width, cut
from zoo.backbones.slots import attention_slots, blocks, reader, slots, widths
from zoo.backbones.timm_gates import TIMM_GATES, can_narrow, narrow_gate
from zoo.compress.prune import _rule, _steps
from zoo.compress.prune import widths as cuttable

tp = pytest.importorskip("torch_pruning", reason="torch-pruning is not installed: pip install 'effnet-zoo[prune]'")
SIZE = (3, 32, 32)
REACH_FURTHER = {"eca", "ceca"}  # neighbours along the channels: who goes changes who stands beside whom
COUNT = {"cbam", "lcbam", "gct", "mca", "mlca", "nam", "triplet", "ela", "scsa"}  # means and norms over the channels: of fewer
SPEAK = {"caa", "cpca", "gca", "lka", "nl", "strip"}  # where nothing comes in, a bias or another channel still comes out
EXACT = set(ATTENTION) - REACH_FURTHER - COUNT - SPEAK


def expanded(model) -> dict[str, int]:
    """Widths of the blocks that have one of their own: the rest is what blocks hand to one another."""
    return {path: widths(block)[0] for _, path, block in blocks(model) if reader(model, f"{path}.se") is not None}


def a_network(name: str, **how):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **how)


@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_every_expanded_width_shrinks(name):
    model = a_network(f"effnet_{name}_test")
    before, rest = expanded(model), [each["num_chs"] for each in model.feature_info]
    report = zoo.prune(model, 0.5, size=SIZE)
    after = expanded(model)
    assert len(before) == 4 and all(after[path] < before[path] for path in before), (before, after)
    assert abs(report.macs[1] / report.macs[0] - 0.5) < 0.03 and report.macs[1] == count_macs(model, SIZE)
    assert all(width % 8 == 0 for width in after.values())
    with torch.no_grad():
        outputs = model.forward_intermediates(torch.randn(2, *SIZE), intermediates_only=True)
    assert [each.shape[1] for each in outputs] == rest, "what blocks hand to one another is whole"
    model.train()(torch.randn(2, *SIZE)).sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters() if each.requires_grad)


def silence(model, width: Width, channels: list[int]) -> None:
    """Channels that are zero at the gate: no norm lets them through, and nothing of theirs is heard."""
    for path in (width.maker, *width.each, *width.readers):
        layer = model.get_submodule(path)
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data[channels] = layer.bias.data[channels] = 0
        elif isinstance(layer, nn.Conv2d):
            (layer.weight.data[:, channels] if path in width.readers else layer.weight.data[channels]).zero_()


@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_silent_channels_go_and_nobody_hears_it(name):
    """Trained as a gate may be, with the least important channels silent: where the arithmetic allows it the output is the same."""
    model = a_network(f"effnet_{name}_test").eval()
    for _, _, gate in attention_slots(model):
        for parameter in gate.parameters():
            nn.init.normal_(parameter, std=0.2)
    for each in cuttable(model, SIZE):
        rule = _rule(model, each, 8)
        if rule is None or "." not in each.maker:
            continue
        size, half = rule.channels // rule.parts, rule.channels // rule.parts // 2 // rule.unit * rule.unit
        silent = [part * size + channel for part in range(rule.parts) for channel in range(half, size)]
        kept = sorted(set(range(rule.channels)) - set(silent))
        silence(model, Width(each.maker, each.each, ()), silent)
        x = torch.randn(2, *SIZE)
        with torch.no_grad():
            before = model(x)
            cut(model, each, kept)
            after = model(x)
        same = torch.allclose(before, after, rtol=1e-4, atol=1e-4 * before.abs().max().item())
        if name in EXACT:
            assert same, (name, each.maker, (before - after).abs().max())
        assert after.isfinite().all()


@pytest.mark.parametrize("name", sorted(EXACT - {"none"}))
def test_a_gate_narrowed_is_the_gate_of_what_is_left(name):
    torch.manual_seed(0)
    gate = ATTENTION[name](96).eval()
    for parameter in gate.parameters():
        nn.init.normal_(parameter, std=0.3)
    parts, unit = getattr(gate, "channel_parts", 1), getattr(gate, "channel_unit", 1)
    runs = range(96 // parts // unit)
    keep = [part * (96 // parts) + run * unit + each for part in range(parts) for run in runs if run % 2 for each in range(unit)]
    assert len(keep) == 48
    x = torch.zeros(2, 96, 9, 7)
    x[:, keep] = torch.randn(2, 48, 9, 7)
    before = gate(x)
    places = {channel: place for place, channel in enumerate(gate.channel_order(96))} if name == "sa" else range(96)
    narrow_gate(gate, keep)
    order = gate.channel_order(48) if name == "sa" else range(48)
    assert torch.allclose(before[:, [places[keep[each]] for each in order]], gate(x[:, keep]), atol=1e-5)


def test_what_a_shuffle_moves_is_read_where_it_went():
    """Shuffle attention mixes the channels' order, so that the convolution behind must lose other columns than those."""
    model = a_network("effnet_sa_test").eval()
    for _, _, gate in attention_slots(model):
        for parameter in gate.parameters():
            nn.init.normal_(parameter, std=0.3)
    (width,) = (each for each in cuttable(model, SIZE) if each.maker == "blocks.3.0.conv_pw")
    unit, channels = width.rule(model)[1], width.channels(model)
    keep = [channel for channel in range(channels) if channel // unit % 3]
    silence(model, Width(width.maker, width.each, ()), sorted(set(range(channels)) - set(keep)))
    x, naive = torch.randn(2, *SIZE), copy.deepcopy(model)
    before = model(x)
    cut(model, width, keep)
    largest = before.abs().max().item()
    assert torch.allclose(before, model(x), atol=1e-4 * largest)
    gate = naive.get_submodule("blocks.3.0.se")
    gate.shuffle = False  # as if the channels stayed in their places
    cut(naive, width, keep)
    gate.shuffle = True
    assert not torch.allclose(before, naive(x), atol=0.1 * largest)


def test_torch_pruning_alone_does_not_see_an_eca_s_width():
    """Why a gate is a leaf with a rule: with its inside traced, the graph does not find the layers that know of these channels."""
    model = a_network("effnet_eca_test").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operations that it does not know
        graph = tp.DependencyGraph().build_dependency(model, torch.zeros(1, *SIZE), verbose=False)
        group = graph.get_pruning_group(model.blocks[3][0].conv_pw, tp.prune_conv_out_channels, list(range(128)))
    reached = {path for path, layer in model.named_modules() for dependency, _ in group if dependency.target.module is layer}
    (own,) = (each for each in cuttable(model, SIZE) if each.maker == "blocks.3.0.conv_pw")
    assert set(own.readers) == {"blocks.3.0.conv_pwl"} and set(own.each) == {
        f"blocks.3.0.{each}" for each in ("bn1", "conv_dw", "bn2", "se")
    }
    assert reached != {own.maker, *own.each, *own.readers} - {"blocks.3.0.se"}


@pytest.mark.parametrize("variant, count", [("b1", 22), ("lite0", 16), ("es", 19), ("cc_b0_4e", 16), ("v2_b0", 21)])
def test_every_family(variant, count):
    """All expanded widths are found, the first depthwise block's among them, which the stem makes."""
    model = a_network(f"effnet_cbam_{variant}").eval()
    before, found = expanded(model), cuttable(model, SIZE)
    assert len(found) == count
    for each in found:
        rule = _rule(model, each, 8)
        cut(model, each, rule.choose(found[each], rule.channels // 2 // rule.step * rule.step))
    after = expanded(model)
    own = {path for path in before if not (path == "blocks.0.1" and variant == "b1")}  # a depthwise block with a shortcut has none
    assert all(after[path] <= before[path] / 2 for path in own)
    assert model(torch.randn(2, *SIZE)).isfinite().all()


def test_conditional_convolutions_keep_their_experts():
    model = a_network("effnet_se_cc_b0_4e", device="cpu").eval()
    (width,) = (each for each in cuttable(model, (3, 64, 64)) if each.maker == "blocks.5.1.conv_pw")
    layer = model.get_submodule(width.maker)
    kernels = layer.weight.view(4, *layer.weight_shape)
    keep = list(range(0, width.channels(model), 3))
    cut(model, width, keep)
    assert layer.out_channels == len(keep) and torch.equal(layer.weight.view(4, *layer.weight_shape), kernels[:, keep])


def test_the_least_important_channels_go():
    model = a_network("effnet_se_test").eval()
    (width,) = (each for each in cuttable(model, SIZE) if each.maker == "blocks.3.0.conv_pw")
    silent = list(range(1, 128, 4))
    silence(model, width, silent)
    scores = cuttable(model, SIZE)[width]
    rule = _rule(model, width, 8)
    assert rule.choose(scores, 96) == sorted(set(range(128)) - set(silent))


def test_all_widths_lose_the_same_share_in_turn():
    model = a_network("effnet_se_b0", device="meta")
    rules = {
        width: _rule(model, width, 8) for width in (Width(f"blocks.{i}.0.conv_pw", (), (f"blocks.{i}.0.conv_pwl",)) for i in (1, 3, 5))
    }
    steps = _steps(rules, model)
    left = {width: rule.channels for width, rule in rules.items()}
    for width, count in steps:
        assert count == left[width] - rules[width].step, "one step at a time"
        left[width] = count
        shares = [left[each] / rule.channels for each, rule in rules.items()]
        assert max(shares) - min(shares) <= max(rule.step / rule.channels for rule in rules.values())
    assert all(left[width] >= rule.channels / 8 for width, rule in rules.items())


@pytest.mark.parametrize("name", ["test_resnet", "legacy_seresnet18", "mobilenetv3_small_100"])
def test_other_networks_have_widths_inside_their_blocks_too(name):
    model = timm.create_model(name).eval()
    channels = [each["num_chs"] for each in model.feature_info]
    report = zoo.prune(model, 0.6, size=(3, 64, 64))
    assert abs(report.macs[1] / report.macs[0] - 0.6) < 0.03 and [each["num_chs"] for each in model.feature_info] == channels
    assert model(torch.randn(1, 3, 64, 64)).isfinite().all()


def test_pruned_twice_and_in_halves():
    model = a_network("effnet_coord_test").half()
    first = zoo.prune(model, 0.7, size=SIZE)
    second = zoo.prune(model, 0.7, size=SIZE)
    assert second.macs[0] == first.macs[1] and abs(second.macs[1] / first.macs[0] - 0.49) < 0.04
    assert all(each.dtype == torch.half for each in model.parameters())


def test_in_steps_as_at_once():
    """Widths too coarse for a small step are cut in a later one: what is left is about what one cut leaves."""
    once, steps = a_network("effnet_se_test"), a_network("effnet_se_test")
    zoo.prune(once, 0.5, size=SIZE)
    whole = copy.deepcopy(steps)
    for share in (0.8, 0.65, 0.5):
        zoo.prune(steps, share * count_macs(whole, SIZE) / count_macs(steps, SIZE), size=SIZE, since=whole)
    assert steps.conv_stem.out_channels == once.conv_stem.out_channels < 24
    assert all(abs(wide - expanded(once)[path]) <= 8 for path, wide in expanded(steps).items())


def test_modes_and_gradients_stay_as_they_were():
    model = a_network("effnet_se_test").train()
    model.blocks[0].eval()
    model.blocks[1].requires_grad_(False)
    zoo.prune(model, 0.6, size=SIZE)
    assert model.training and not model.blocks[0].training
    assert not any(each.requires_grad for each in model.blocks[1].parameters())
    assert all(each.requires_grad for each in model.blocks[3].parameters())


# ---- rules for what is not ours


@pytest.mark.parametrize("gate", [gate for gate, name in TIMM_GATES.items() if name not in ("bat", "ge")], ids=lambda gate: gate.__name__)
def test_gates_of_timm(gate):
    """What is left of the gate gives for the channels that are left the shape of them, and takes gradients."""
    torch.manual_seed(0)
    built = gate(48, 4) if gate.__module__.endswith("senet") else gate(48)
    assert can_narrow(built)
    narrow_gate(built, list(range(0, 48, 2)))
    x = torch.randn(2, 24, 7, 7, requires_grad=True)
    built(x).sum().backward()
    assert built(x).shape == x.shape and x.grad is not None
    assert all(48 not in each.shape for each in built.parameters())


class Stranger(nn.Module):
    """A gate of a third party that says nothing of pruning."""

    def __init__(self, channels, *, rd_ratio=1.0, act_layer="relu", calm=False, device=None, dtype=None):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1, device=device, dtype=dtype))

    def forward(self, x):
        return x * self.gain


class Polite(Stranger):
    def narrow(self, keep):
        self.gain = nn.Parameter(self.gain.detach()[list(keep)])


def test_a_gate_of_a_third_party(try_attention):
    try_attention("stranger", Stranger)
    try_attention("polite", Polite)
    model = a_network("effnet_stranger_test")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"blocks.\d.0.se: Stranger \(stranger\) does not say .* a method narrow\(keep\), as registry.ATT"):
        zoo.prune(model, 0.5, size=SIZE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model = a_network("effnet_polite_test")
    zoo.prune(model, 0.5, size=SIZE)
    assert model(torch.randn(2, *SIZE)).isfinite().all()
    assert [len(gate.gain) for gate in slots(model).values()] == [widths(block)[0] for _, _, block in blocks(model)]


# ---- mistakes


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan")])
def test_a_target_that_is_none(share):
    with pytest.raises(ValueError, match="macs: expected the share of the multiplications that is to be left, between 0 and 1"):
        zoo.prune(a_network("effnet_se_test"), share)


def test_a_target_out_of_reach():
    model = a_network("effnet_se_test")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"macs: 0.05 cannot be reached in effnet_se_test: .* 0\.\d+ of the multiplications are left"):
        zoo.prune(model, 0.05, size=SIZE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["test_vit", "test_nfnet", "regnety_002"])
def test_a_network_without_such_a_width(name):
    with pytest.raises(ValueError, match=f"{name} has no width that can be cut"):
        zoo.prune(timm.create_model(name), 0.5)


def test_while_gates_change_hands():
    model = a_network("effnet_se_test")
    zoo.swap_attention(model, "cbam")
    with pytest.raises(ValueError, match="a new gate is taking over from an old one there; train first"):
        zoo.prune(model, 0.5)


def test_something_that_knows_of_the_channels_and_says_nothing():
    model = a_network("effnet_se_test", aa_layer="blurpc")
    with pytest.raises(ValueError, match="effnet_se_test cannot be pruned"):
        zoo.prune(model, 0.5, size=SIZE)


def test_without_the_extra(monkeypatch):
    importing = builtins.__import__

    def missing(name, *rest):
        if name == "torch_pruning":
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'effnet-zoo\[prune\]'"):
        zoo.prune(a_network("effnet_se_test"), 0.5)


def test_the_report_is_a_table():
    report = zoo.prune(a_network("effnet_cbam_test"), 0.5, size=SIZE)
    lines = str(report).splitlines()
    assert lines[0].split() == ["width", "made", "by", "gate", "channels"] and len(lines) == 2 + len(report) + 2
    assert lines[3].split()[:3] == ["blocks.1.0.conv_exp", "cbam", "64"] and lines[-2].startswith("MACs: ") and "parameters: " in lines[-1]

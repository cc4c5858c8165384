"""To disk and back: a swapped network is what timm reads, whole, strictly; and where timm has the same network, without this package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import zoo
from zoo.backbones.graft import hand_overs

FINISHED, FRESH, UNDER_WAY, NESTED = "finished", "fresh", "under way", "a hand-over inside another"


def learned(name: str, **kwargs) -> nn.Module:
    model = timm.create_model(name, **{"num_classes": 5, **kwargs})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def swapped(name: str, to: str = "cbam", state: str = UNDER_WAY, **kwargs) -> nn.Module:
    """A network with another gate that has learned as well."""
    model = learned(name, **kwargs)
    zoo.swap_attention(model, to, keep="fresh" if state == FRESH else "graft")
    zoo.set_share(model, 0.5)
    if state == FINISHED:
        zoo.finish_swap(model)
    if state == NESTED:
        zoo.swap_attention(model, "eca")
        zoo.set_share(model, 0.25)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def back(folder: Path, **kwargs) -> nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(value, second[key]) for key, value in first.items())


def pictures(channels: int = 3, size: int = 64) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


# ---- the same network


@pytest.mark.parametrize("state", [FINISHED, FRESH, UNDER_WAY, NESTED])
@pytest.mark.parametrize("name", ["effnet_se_test", "test_byobnet", "mobilenetv3_small_050", "test_nfnet", "efficientnet_lite0"])
@torch.no_grad()
def test_there_and_back(tmp_path, name, state):
    model = swapped(name, state=state)
    zoo.save_model(model, tmp_path / "once")
    again = back(tmp_path / "once")
    x = pictures()
    assert same(again, model) and torch.equal(again(x), model(x))
    assert [name for _, name, _ in zoo.attention_slots(again)] == [name for _, name, _ in zoo.attention_slots(model)]
    assert [float(gate.share) for _, gate in hand_overs(again)] == [float(gate.share) for _, gate in hand_overs(model)]
    zoo.save_model(again, tmp_path / "twice")
    once, twice = (json.loads((tmp_path / each / "config.json").read_text())["model_args"] for each in ("once", "twice"))
    assert all(twice[key] == once[key] for key in ("base", "base_args", "slots")), "nothing piles up"


@torch.no_grad()
def test_swapped_saved_loaded_and_swapped_again(tmp_path):
    """Every step through the file: graft, load, swap inside the hand-over, load, finish, load, take one out, load."""
    x, steps = pictures(), []
    model = swapped("effnet_se_test", attn_stages={0: "eca"})

    def through_the_file():
        zoo.save_model(model, tmp_path / str(len(steps)))
        again = back(tmp_path / str(len(steps)))
        assert same(again, model) and torch.equal(again(x), model.eval()(x))
        steps.append([name for _, name, _ in zoo.attention_slots(again)])
        return again

    model = through_the_file()
    zoo.swap_attention(model, "ese", stages=4)
    model = through_the_file()
    zoo.finish_swap(model)
    model = through_the_file()
    zoo.swap_attention(model, "none", keep="fresh", stages=0)
    model = through_the_file()
    zoo.swap_attention(model, "srm", stages=[0, 1])
    model = through_the_file()
    assert steps == [
        ["eca>cbam", "se>cbam", "se>cbam"],
        ["eca>cbam", "se>cbam", "se>cbam>ese"],
        ["cbam", "cbam", "ese"],
        ["cbam", "ese"],
        ["none>srm", "none>srm", "cbam", "ese"],
    ]


@pytest.mark.parametrize("state", [FINISHED, UNDER_WAY])
@torch.no_grad()
def test_the_padding_of_a_tag_comes_back(tmp_path, state):
    """effnet_..._lite0.tf_in1k is built with TensorFlow's padding; no tensor shows it."""
    model = swapped("effnet_se_lite0.tf_in1k", state=state)
    zoo.save_model(model, tmp_path)
    again = back(tmp_path)
    assert type(again.conv_stem).__name__ == "Conv2dSame" and torch.equal(again(pictures()), model(pictures()))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"in_chans": 1},
        {"global_pool": "max"},
        {"num_classes": 0},
        {"num_classes": 0, "global_pool": ""},
        {"drop_rate": 0.2, "drop_path_rate": 0.1},
        {"output_stride": 16},
        {"attn_stages": {1: {"name": "cbam", "kernel_size": 3}}, "attn_kwargs": {"rd_ratio": 0.5}},
    ],
    ids=str,
)
@torch.no_grad()
def test_how_the_base_was_made_comes_back(tmp_path, kwargs):
    model = swapped("effnet_se_test", to="eca", **kwargs)
    zoo.save_model(model, tmp_path)
    again, x = back(tmp_path), pictures(kwargs.get("in_chans", 3))
    assert same(again, model) and torch.equal(again(x), model(x)) and again.num_classes == model.num_classes


@torch.no_grad()
def test_a_parameter_of_the_gate_comes_back(tmp_path):
    model = learned("effnet_se_test")
    zoo.swap_attention(model, "cbam", keep="fresh", attn_kwargs={"kernel_size": 3, "rd_ratio": 0.5})
    zoo.save_model(model, tmp_path)
    assert same(back(tmp_path), model) and back(tmp_path).blocks[3][0].se.spatial.conv.kernel_size == (3, 3)


@torch.no_grad()
def test_timms_own_way_of_saving(tmp_path):
    """What push_to_hf_hub writes."""
    model = swapped("test_byobnet")
    timm.models.save_for_hf(model, tmp_path)
    assert same(back(tmp_path), model) and torch.equal(back(tmp_path)(pictures()), model(pictures()))


# ---- other heads and stems


HEADS = ["effnet_se_test", "test_byobnet", "efficientvit_m0", "repvit_m0_9"]  # the last two have a norm beside the classifier


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_another_number_of_classes(tmp_path, name):
    model = swapped(name)
    zoo.save_model(model, tmp_path)
    again, x = back(tmp_path, num_classes=9), pictures(size=224 if name == "efficientvit_m0" else 64)
    assert again(x).shape == (2, 9) and torch.equal(again.forward_features(x), model.forward_features(x))
    none = back(tmp_path, num_classes=0)
    assert torch.equal(none(x), model.forward_head(model.forward_features(x), pre_logits=True))


@torch.no_grad()
def test_a_head_for_one_that_had_none(tmp_path):
    model = swapped("effnet_se_test", num_classes=0)
    zoo.save_model(model, tmp_path)
    again = back(tmp_path, num_classes=7)
    assert again(pictures()).shape == (2, 7) and torch.equal(again.forward_features(pictures()), model.forward_features(pictures()))


@torch.no_grad()
def test_another_number_of_channels(tmp_path):
    """timm sums the stem over the colours, so that a grey picture says what it said."""
    model = swapped("effnet_se_test")
    zoo.save_model(model, tmp_path)
    grey = pictures(1)
    assert torch.allclose(back(tmp_path, in_chans=1)(grey), model(grey.expand(-1, 3, -1, -1)), atol=1e-5)


@pytest.mark.parametrize("name", ["effnet_se_test", "test_byobnet", "efficientvit_m0", "tresnet_m"])
@torch.no_grad()
def test_as_features(tmp_path, name):
    """The levels that timm gives of the base: five for most, three, the last four."""
    model = swapped(name)
    zoo.save_model(model, tmp_path)
    x = pictures(size=224 if name == "efficientvit_m0" else 64)
    part, plain = back(tmp_path, features_only=True), timm.create_model(name, features_only=True, device="meta")
    assert part.feature_info.channels() == plain.feature_info.channels() and part.feature_info.reduction() == plain.feature_info.reduction()
    wanted = model.forward_intermediates(x, indices=list(part.feature_info.out_indices), intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(part(x), wanted, strict=True))
    few = back(tmp_path, features_only=True, out_indices=(0, 2))
    wanted = model.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(few(x), wanted, strict=True))


@torch.no_grad()
def test_features_by_graph(tmp_path):
    model = swapped("effnet_se_test")
    zoo.save_model(model, tmp_path)
    part, x = back(tmp_path, features_only=True, feature_cls="fx"), pictures()
    wanted = model.forward_intermediates(x, intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(part(x), wanted, strict=True))


def test_a_device_and_a_dtype(tmp_path):
    zoo.save_model(swapped("effnet_se_test"), tmp_path)
    shell = timm.create_model(f"local-dir:{tmp_path}", pretrained=False, device="meta", dtype=torch.bfloat16)
    assert {(value.device.type, value.dtype) for value in shell.parameters()} == {("meta", torch.bfloat16)}
    assert len(list(hand_overs(shell))) == 2


# ---- strict


@pytest.mark.parametrize(
    "name, kwargs",
    [
        *(("effnet_se_test", kwargs) for kwargs in ({}, {"num_classes": 9}, {"num_classes": 0}, {"features_only": True}, {"in_chans": 1})),
        ("test_byobnet", {"num_classes": 9}),
    ],
    ids=str,
)
def test_a_damaged_file_is_refused(tmp_path, name, kwargs):
    """timm itself loads most of these without a word as soon as the number of classes differs."""
    model = swapped(name)
    zoo.save_model(model, tmp_path)
    file = tmp_path / "model.safetensors"
    whole = safetensors.torch.load_file(file)
    old = next(key for key in whole if ".old." in key and key.endswith("weight"))
    new = next(key for key in whole if ".new." in key and key.endswith("weight"))
    trunk = next(key for key in whole if ".bn1.weight" in key or ".bn.weight" in key)
    share = next(key for key in whole if key.endswith(".share"))
    for key in (old, new, trunk, share):
        for fault, damaged in {
            "lacks": {k: v for k, v in whole.items() if k != key},
            "has no place for": {**whole, f"{key}.more": torch.zeros(1)},
            "size mismatch": {**whole, key: torch.zeros(3, 5)},
        }.items():
            safetensors.torch.save_file(damaged, file)
            with pytest.raises(RuntimeError, match=f"{fault}.*{re.escape(key)}|{fault} for {re.escape(key)}"):
                back(tmp_path, **kwargs)
    safetensors.torch.save_file(whole, file)
    assert back(tmp_path, **kwargs) is not None


def test_the_classifier_too_when_it_is_wanted(tmp_path):
    model = swapped("effnet_se_test")
    zoo.save_model(model, tmp_path)
    file = tmp_path / "model.safetensors"
    whole = safetensors.torch.load_file(file)
    safetensors.torch.save_file({key: value for key, value in whole.items() if key != "classifier.bias"}, file)
    with pytest.raises(RuntimeError, match="classifier.bias"):
        back(tmp_path)
    assert back(tmp_path, num_classes=9).num_classes == 9


def test_a_file_of_another_stage_of_the_swap_is_refused(tmp_path):
    """Finished weights for a network under way, and the other way round."""
    for name, state in (("way", UNDER_WAY), ("end", FINISHED)):
        zoo.save_model(swapped("effnet_se_test", state=state), tmp_path / name)
    first, second = (tmp_path / name / "model.safetensors" for name in ("way", "end"))
    ways, ends = first.read_bytes(), second.read_bytes()
    first.write_bytes(ends), second.write_bytes(ways)
    for name in ("way", "end"):
        for kwargs in ({}, {"num_classes": 9}):
            with pytest.raises(RuntimeError, match="cannot be this network .attn_swap.: it lacks blocks"):
                back(tmp_path / name, **kwargs)


def test_a_slot_that_the_base_has_not(tmp_path):
    zoo.save_model(swapped("effnet_se_test"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["slots"]["blocks.9.0.se"] = config["model_args"]["slots"].pop("blocks.4.0.se")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="effnet_se_test has no slot 'blocks.9.0.se'; did you mean 'blocks"):
        back(tmp_path)


def test_the_name_alone_is_no_network():
    with pytest.raises(ValueError, match="attn_swap is the name under which a swapped network is saved"):
        timm.create_model("attn_swap")


# ---- what the file says


def test_the_description_is_all_there_is(tmp_path):
    model = swapped("effnet_se_test", state=NESTED)
    zoo.save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "attn_swap" and config["num_classes"] == 5
    args = config["model_args"]
    assert args["base"] == "effnet_se_test" and sorted(args["slots"]) == ["blocks.3.0.se", "blocks.4.0.se"]
    last = args["slots"]["blocks.4.0.se"]
    assert (last["attention"], last["from"]["attention"], last["from"]["from"]) == ("eca", "cbam", None)
    assert last["options"]["calm"] is True and last["channels"] == model.blocks[4][0].conv_pwl.in_channels
    zoo.finish_swap(model)
    zoo.save_model(model, tmp_path)
    assert '"from"' not in (tmp_path / "config.json").read_text()


# ---- where timm has the same network


ALONE = """
import json, sys, timm, torch
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    x, y = torch.load(f"{folder}/pictures.pt")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        print(json.dumps([type(model).__module__, float((model(x) - y).abs().max())]))
try:
    timm.create_model("local-dir:under way", pretrained=True)
except RuntimeError as error:
    print(error)
assert "zoo" not in sys.modules and "registry" not in sys.modules
"""

STOCK = {
    "EfficientNet's own gate": ("effnet_eca_b0", "se", {}, ("efficientnet_b0", {})),
    "an option of EfficientNet": ("efficientnet_b0", "eca", {}, ("efficientnet_b0", {"se_layer": "eca"})),
    "padding": ("effnet_se_b0.tf_in1k", "eca", {}, ("tf_efficientnet_b0", {"se_layer": "eca"})),
    "no gate": ("effnet_se_lite0", "none", {}, ("efficientnet_lite0", {})),
    "an option of ResNet's blocks": ("seresnet18", "eca", {}, ("seresnet18", {"block_args": {"attn_layer": "eca"}})),
    "one channel": ("effnet_se_test", "ese", {"in_chans": 1}, ("test_efficientnet", {"se_layer": "ese"})),
}


def test_timm_alone_reads_what_timm_has(tmp_path):
    for case, (name, to, kwargs, (architecture, option)) in STOCK.items():
        model = swapped(name, to=to, state=FINISHED, **kwargs) if to not in name else learned(name, **kwargs).eval()
        x = pictures(kwargs.get("in_chans", 3), 48)
        zoo.save_model(model, tmp_path / case)
        config = json.loads((tmp_path / case / "config.json").read_text())
        assert config["architecture"] == architecture and option.items() <= config["model_args"].items(), case
        assert not {"slots", "base", "base_args"} & config["model_args"].keys(), case
        with torch.no_grad():
            torch.save((x, model(x)), tmp_path / case / "pictures.pt")
            assert torch.equal(back(tmp_path / case)(x), model(x)), case
    zoo.save_model(swapped("effnet_se_test"), tmp_path / "under way")  # which it has not, and says so
    folders = [str(tmp_path / case) for case in STOCK]
    done = subprocess.run([sys.executable, "-c", ALONE, *folders], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *lines, refused = done.stdout.splitlines()
    assert "Unknown model (attn_swap)" in refused
    for case, line in zip(STOCK, lines, strict=True):
        module, difference = json.loads(line)
        assert module.startswith("timm.") and difference <= 1e-6, case


@pytest.mark.parametrize(
    "name, to, state, kwargs",
    [
        ("effnet_se_test", "cbam", FINISHED, {}),  # timm has one of that name, which is another function
        ("effnet_se_test", "eca", UNDER_WAY, {}),
        ("test_efficientnet", "se", FINISHED, {"stages": [0, 3, 4]}),  # where timm has none
        ("mobilenetv3_small_050", "se", FINISHED, {}),  # the tensors of timm's, which has a hard sigmoid
    ],
    ids=str,
)
def test_what_timm_has_not_is_not_said_to_be_timms(tmp_path, name, to, state, kwargs):
    model = learned(name)
    zoo.swap_attention(model, to, **kwargs)
    if state == FINISHED:
        zoo.finish_swap(model)
    zoo.save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "attn_swap"
    assert same(back(tmp_path), model)

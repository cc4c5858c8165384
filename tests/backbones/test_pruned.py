"""A pruned network comes back through timm as it was: strictly, with other classes, as features, swapped before and after."""

import json
import subprocess
import sys

import pytest
import timm
import torch

import zoo
from registry import ATTENTION
from zoo.backbones.pruned import Width, cut_to, record_cuts
from zoo.backbones.slots import attention_slots, blocks, widths
from zoo.backbones.weights import base_name

SIZE = (3, 32, 32)


def blocks_of(model):
    return [block for _, _, block in blocks(model)]


def halved(model):
    """Every expanded width cut to about half, as pruning does it; without torch-pruning, which loading does not need either."""
    cuts = {}
    for stage, inside in (
        (1, ("bn1", "se")),
        (2, ("bn1", "se")),
        (3, ("bn1", "conv_dw", "bn2", "se")),
        (4, ("bn1", "conv_dw", "bn2", "se")),
    ):
        block = f"blocks.{stage}.0"
        there = tuple(f"{block}.{name}" for name in inside if not isinstance(model.get_submodule(f"{block}.{name}"), torch.nn.Identity))
        width = Width(f"{block}.{'conv_exp' if stage < 3 else 'conv_pw'}", there, (f"{block}.conv_pwl",))
        parts, unit = width.rule(model)
        step = parts * unit
        cuts[width] = max(step, width.channels(model) // 2 // step * step)
        cut_to(model, width, cuts[width])
    record_cuts(model, cuts)
    return model


def a_network(name="effnet_cbam_test", **how):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=5, **how).eval()


def says(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.ones(2, 3, 32, 32, dtype=next(model.parameters()).dtype))


def back(folder, **how):
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **how).eval()


@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_it_comes_back_bit_equal(name, tmp_path):
    model = halved(a_network(f"effnet_{name}_test"))
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.2)
    zoo.save_model(model, tmp_path)
    again = back(tmp_path)
    assert torch.equal(says(again), says(model)) and [widths(b) for b in blocks_of(again)] == [widths(b) for b in blocks_of(model)]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "pruned" and config["model_args"]["base"] == f"effnet_{name}_test"
    assert config["model_args"]["widths"]["blocks.3.0.conv_pw"]["readers"] == ["blocks.3.0.conv_pwl"]


def test_eca_keeps_its_kernel(tmp_path):
    model = a_network("effnet_eca_test")
    before = [gate.conv.kernel_size for _, _, gate in attention_slots(model)]
    zoo.save_model(halved(model), tmp_path)
    fresh = ATTENTION["eca"](widths(blocks_of(model)[4])[0])
    assert [gate.conv.kernel_size for _, _, gate in attention_slots(back(tmp_path))] == before and fresh.conv.kernel_size != before[4]


def test_other_classes_no_classes_and_one_channel(tmp_path):
    model = halved(a_network())
    zoo.save_model(model, tmp_path)
    assert back(tmp_path, num_classes=7).classifier.out_features == 7
    trunk = back(tmp_path, num_classes=0)
    with torch.no_grad():
        assert torch.equal(says(trunk), model.forward_head(model.forward_features(torch.ones(2, 3, 32, 32)), pre_logits=True))
    assert back(tmp_path, in_chans=1)(torch.ones(1, 1, 32, 32)).shape == (1, 5)


def test_features(tmp_path):
    model = halved(a_network())
    zoo.save_model(model, tmp_path)
    features = back(tmp_path, features_only=True)
    with torch.no_grad():
        maps = features(torch.ones(1, 3, 32, 32))
        whole = model.forward_intermediates(torch.ones(1, 3, 32, 32), intermediates_only=True)
    assert [each.shape[1] for each in maps] == features.feature_info.channels() == [16, 24, 32, 48, 64]
    assert len(maps) == len(whole) and all(torch.equal(*pair) for pair in zip(maps, whole, strict=True))
    two = back(tmp_path, features_only=True, out_indices=(1, 3))
    assert [each.shape[1] for each in two(torch.ones(1, 3, 32, 32))] == two.feature_info.channels() == [24, 48]


def test_a_file_of_another_network_is_refused(tmp_path):
    zoo.save_model(halved(a_network()), tmp_path / "cbam")
    zoo.save_model(halved(a_network("effnet_coord_test")), tmp_path / "coord")
    (tmp_path / "coord" / "model.safetensors").replace(tmp_path / "cbam" / "model.safetensors")
    for classes in (5, 9):
        with pytest.raises(RuntimeError, match="cannot be this network .pruned.: it lacks blocks"):
            back(tmp_path / "cbam", num_classes=classes)


def test_a_damaged_description_is_refused(tmp_path):
    zoo.save_model(halved(a_network()), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    cuts = config["model_args"]["widths"]
    cuts["blocks.9.0.conv_pw"] = cuts.pop("blocks.3.0.conv_pw")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="effnet_cbam_test cannot be cut at blocks.9.0.conv_pw to 64 channels"):
        back(tmp_path)


def test_the_name_alone_is_no_network():
    with pytest.raises(ValueError, match="pruned is the name under which a pruned network is saved; make one with zoo.prune"):
        timm.create_model("pruned")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype, tmp_path):
    model = halved(a_network().to(dtype))
    zoo.save_model(model, tmp_path)
    assert torch.equal(says(back(tmp_path).to(dtype)), says(model))


def test_what_was_swapped_is_pruned(tmp_path):
    model = a_network("effnet_se_test", attn_stages={4: "eca"})
    zoo.swap_attention(model, "coord", stages=[2, 3], keep="fresh")
    zoo.save_model(halved(model), tmp_path)
    again = back(tmp_path)
    assert torch.equal(says(again), says(model)) and base_name(again) == base_name(model) == "test_efficientnet"
    assert [name for _, name, _ in attention_slots(again)] == [name for _, name, _ in attention_slots(model)]
    assert "coord" in [name for _, name, _ in attention_slots(again)] and "eca" in [name for _, name, _ in attention_slots(again)]


@pytest.mark.parametrize("keep", ["fresh", "graft"])
def test_what_was_pruned_is_swapped(keep, tmp_path):
    model = halved(a_network("effnet_se_test", attn_all=True))
    report = zoo.swap_attention(model, "cbam", keep=keep)
    assert len(report) == 5
    zoo.save_model(model, tmp_path)
    assert torch.equal(says(back(tmp_path)), says(model))
    if keep == "graft":
        zoo.set_share(model, 1.0)
        zoo.finish_swap(model)
        zoo.save_model(model, tmp_path)
        assert torch.equal(says(back(tmp_path)), says(model)) and {name for _, name, _ in attention_slots(back(tmp_path))} == {"cbam"}
    assert base_name(back(tmp_path)) == "test_efficientnet"


def test_pruned_twice(tmp_path):
    model = halved(halved(a_network("effnet_sge_test")))
    zoo.save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_args"]["base"] == "effnet_sge_test" and config["model_args"]["widths"]["blocks.3.0.conv_pw"]["channels"] == 32
    assert torch.equal(says(back(tmp_path)), says(model))


def test_it_loads_where_torch_pruning_is_not_installed(tmp_path):
    zoo.save_model(halved(a_network()), tmp_path)
    code = f"""
import sys
sys.modules["torch_pruning"] = None
import timm, zoo
timm.create_model("local-dir:{tmp_path}", pretrained=True)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_network_that_is_not_from_timm_is_cut_all_the_same():
    model = a_network()
    del model.pretrained_cfg, model.default_cfg
    halved(model)
    assert says(model).shape == (2, 5)
    with pytest.raises(ValueError, match="expected a whole network from timm.create_model"):
        zoo.save_model(model, "nowhere")

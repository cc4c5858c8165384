"""What a checkpoint means for another attention, and the way to disk and back. The hub is played by the test."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import zoo  # noqa: F401
from zoo import files
from zoo.backbones import attention_slots, save_model

REAL = Path(__file__).parents[2] / "../shared/data/pretrained/tf_efficientnet_lite0_features.safetensors"


def noisy(name: str, **kwargs) -> dict[str, torch.Tensor]:
    """Weights that no initialisation would give."""
    model = timm.create_model(name, **kwargs)
    return {key: torch.rand_like(value) + 0.5 if value.is_floating_point() else value + 3 for key, value in model.state_dict().items()}


@pytest.fixture
def hub(monkeypatch):
    """hub.put(state): what the hub answers, whatever it is asked for; hub.asked: what it was asked for."""

    class Hub:
        asked: list[str] = []

        def put(self, state):
            self.state = state

        def load(self, model_id, *, weights_only=None, cache_dir=None):
            self.asked.append(model_id)
            return dict(self.state)

    hub = Hub()
    hub.asked = []
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", hub.load)
    return hub


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="zoo")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "zoo"]


def backbone(state) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if ".se." not in key and not key.startswith("classifier.")}


def same(model: nn.Module, state) -> bool:
    found = model.state_dict()
    return all(torch.equal(found[key], value) for key, value in state.items())


# ---- pretrained=True


def test_se_keeps_everything(hub, log):
    state = noisy("test_efficientnet")
    hub.put(state)
    model = timm.create_model("effnet_se_test", pretrained=True)
    assert hub.asked == ["timm/test_efficientnet.r160_in1k"]
    assert list(model.state_dict()) == list(state) and same(model, state)
    assert log() == [], "nothing is new, so there is nothing to say"


@pytest.mark.parametrize("attention, gates", [("cbam", 16), ("eca", 16), ("none", 0)])
def test_another_attention_keeps_the_backbone(hub, log, attention, gates):
    state = noisy("efficientnet_b0")
    hub.put(state)
    model = timm.create_model(f"effnet_{attention}_b0", pretrained=True)
    assert same(model, {**backbone(state), "classifier.weight": state["classifier.weight"]})
    assert len(attention_slots(model)) == gates
    for _, _, gate in attention_slots(model):
        x = torch.randn(1, next(iter(gate.parameters())).shape[-1] if attention == "cbam" else 32, 3, 3)
        assert gate.calm and torch.allclose(gate.eval()(x), x * (0.25 if attention == "cbam" else 0.5))
    assert log() == [
        f"effnet_{attention}_b0: kept {len(backbone(state))} backbone tensors and 0 gates of timm/efficientnet_b0.ra_in1k; "
        f"new: {gates} gates, 16 gates of the file left out"
    ]


def test_tag_and_new_classifier(hub):
    state = noisy("tf_efficientnet_b0")
    hub.put(state)
    model = timm.create_model("effnet_se_b0.tf_in1k", pretrained=True, num_classes=10)
    assert hub.asked == ["timm/tf_efficientnet_b0.in1k"] and type(model.conv_stem).__name__ == "Conv2dSame"
    assert same(model, {key: value for key, value in state.items() if not key.startswith("classifier.")})
    assert model.classifier.weight.shape == (10, 1280) and model.classifier.weight.std() < 0.02


def test_other_stages(hub, log):
    state = noisy("test_efficientnet")
    hub.put(state)
    model = timm.create_model("effnet_se_test", pretrained=True, attn_stages={4: "cbam"})
    kept = {key: value for key, value in state.items() if not key.startswith("blocks.4.0.se.")}
    assert same(model, kept) and len(kept) < len(state)
    assert [name for _, name, _ in attention_slots(model)] == ["se", "cbam"]
    assert log()[0].endswith("and 1 gates of timm/test_efficientnet.r160_in1k; new: 1 gates, 1 gates of the file left out")


@pytest.mark.parametrize(
    "kwargs, new", [({"attn_all": True}, 3), ({"attn_stages": {0: "cbam", 1: "se"}}, 2), ({"attn_stages": {2: "eca"}}, 1)], ids=str
)
def test_gates_where_timm_has_none_start_fresh(hub, log, kwargs, new):
    """The fused stages of V2 have no SE in timm's files; asking for a gate there is not a damaged file."""
    state = noisy("test_efficientnet")
    hub.put(state)
    model = timm.create_model("effnet_se_test", pretrained=True, **kwargs)
    assert same(model, state) and len(attention_slots(model)) == 2 + new
    assert log()[0].endswith(f"and 2 gates of timm/test_efficientnet.r160_in1k; new: {new} gates")


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"num_classes": 10}, {"num_classes": 0}, {"features_only": True}, {"features_only": True, "feature_cls": "getter"}],
    ids=str,
)
@pytest.mark.parametrize("attention", ["cbam", "se"])
class TestDamage:
    """timm itself loads most of these without a word as soon as the number of classes differs."""

    def load(self, hub, attention, state, kwargs):
        hub.put(state)
        return timm.create_model(f"effnet_{attention}_test", pretrained=True, **kwargs)

    def test_none(self, hub, attention, kwargs):
        state = noisy("test_efficientnet")
        found = self.load(hub, attention, state, kwargs).state_dict()
        found = {key.removeprefix("model."): value for key, value in found.items()}
        head = ("conv_head.", "bn2.")
        wanted = {key: value for key, value in backbone(state).items() if "features_only" not in kwargs or not key.startswith(head)}
        assert len(wanted) > 50 and all(torch.equal(found[key], value) for key, value in wanted.items())

    def test_a_missing_tensor(self, hub, attention, kwargs):
        state = noisy("test_efficientnet")
        del state["blocks.2.0.bn1.weight"]
        with pytest.raises(
            RuntimeError, match=rf"r160_in1k cannot be the backbone of effnet_{attention}_test: it lacks blocks.2.0.bn1.weight"
        ):
            self.load(hub, attention, state, kwargs)

    def test_another_shape(self, hub, attention, kwargs):
        state = noisy("test_efficientnet")
        state["blocks.2.0.bn1.weight"] = state["blocks.2.0.bn1.weight"][:-1]
        with pytest.raises(RuntimeError, match=r"it has another shape of blocks.2.0.bn1.weight \(\d+,\) for \(\d+,\)"):
            self.load(hub, attention, state, kwargs)

    def test_one_too_many(self, hub, attention, kwargs):
        state = noisy("test_efficientnet")
        state["blocks.2.0.bn9.weight"] = torch.zeros(1)
        with pytest.raises(RuntimeError, match="it has no place for blocks.2.0.bn9.weight"):
            self.load(hub, attention, state, kwargs)

    def test_another_stem(self, hub, attention, kwargs):
        state = noisy("test_efficientnet")
        state["conv_stem.weight"] = state["conv_stem.weight"][:-1]
        with pytest.raises(RuntimeError, match="conv_stem"):
            self.load(hub, attention, state, kwargs)

    def test_another_network(self, hub, attention, kwargs):
        with pytest.raises(RuntimeError, match="cannot be the backbone of .*it lacks blocks.0.0.conv.weight"):
            self.load(hub, attention, noisy("efficientnet_lite0"), kwargs)


def test_half_a_gate_is_damage(hub):
    state = noisy("test_efficientnet")
    del state["blocks.4.0.se.conv_expand.bias"]
    hub.put(state)
    with pytest.raises(RuntimeError, match="cannot be effnet_se_test: it lacks blocks.4.0.se.conv_expand.bias"):
        timm.create_model("effnet_se_test", pretrained=True, num_classes=10)
    assert timm.create_model("effnet_cbam_test", pretrained=True) is not None, "whoever does not need the gate does not mind"


def test_a_hole_in_a_gated_stage_is_damage(hub):
    state = {key: value for key, value in noisy("efficientnet_b0").items() if not key.startswith("blocks.3.1.se.")}
    hub.put(state)
    with pytest.raises(RuntimeError, match="cannot be effnet_se_b0: it lacks blocks.3.1.se.conv_expand.bias"):
        timm.create_model("effnet_se_b0", pretrained=True)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_in_chans(hub, in_chans):
    state = noisy("test_efficientnet")
    hub.put(state)
    model = timm.create_model("effnet_cbam_test", pretrained=True, in_chans=in_chans)
    hub.put(state)
    timms = timm.create_model("test_efficientnet", pretrained=True, in_chans=in_chans)
    assert torch.equal(model.conv_stem.weight, timms.conv_stem.weight)
    assert same(model, {key: value for key, value in backbone(state).items() if key != "conv_stem.weight"})


def test_a_state_dict_by_hand(log):
    state = noisy("test_efficientnet")
    model = timm.create_model("effnet_eca_test", pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    assert same(model, backbone(state)) and "of the given weights;" in log()[0]


@pytest.mark.skipif(not REAL.exists(), reason="the real Lite0 weights lie beside some checkouts only (../shared/data/pretrained)")
@pytest.mark.parametrize("num_classes", [0, 10])
def test_real_weights(log, num_classes):
    """ImageNet's Lite0 with calm CBAM put in: the trunk is the file's, and the gates scale it by one quarter and change nothing else."""
    name = "effnet_cbam_lite0.tf_in1k"
    model = timm.create_model(name, pretrained=True, num_classes=num_classes, pretrained_cfg_overlay={"file": str(REAL)}).eval()
    state = safetensors.torch.load_file(REAL)
    assert same(model, state) and set(state) == set(backbone(model.state_dict()))
    new = "16 gates, the classifier" if num_classes else "16 gates"
    assert log() == [f"effnet_cbam_lite0: kept {len(state)} backbone tensors and 0 gates of {REAL}; new: {new}"]
    timms = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    timms.load_state_dict(state, strict=True)
    timms.eval()
    for stack in timms.blocks:
        for block in stack:
            (block.conv_pwl if hasattr(block, "conv_pwl") else block.conv_pw).register_forward_pre_hook(
                lambda module, args: (args[0] * 0.25,)
            )
    with torch.no_grad():
        x = torch.randn(1, 3, 96, 96)
        assert torch.allclose(model.forward_features(x), timms.forward_features(x), atol=1e-5)


# ---- save_model and local-dir


CASES = {
    "plain": ("effnet_cbam_test", {}, {}),
    "eca": ("effnet_eca_test", {"num_classes": 5}, {}),
    "se": ("effnet_se_test", {"num_classes": 5}, {}),
    "none": ("effnet_none_test", {"num_classes": 0}, {}),
    "another number of classes": ("effnet_cbam_test", {"num_classes": 10}, {}),
    "no classifier": ("effnet_cbam_test", {"num_classes": 0}, {}),
    "no pooling": ("effnet_cbam_test", {"num_classes": 0, "global_pool": ""}, {}),
    "channels_last": ("effnet_cbam_test", {"num_classes": 10}, {"memory_format": torch.channels_last}),
    "stages": ("effnet_se_test", {"attn_stages": {1: "eca", 4: {"name": "cbam", "kernel_size": 3}}, "num_classes": 4}, {}),
    "options": ("effnet_cbam_test", {"attn_kwargs": {"rd_ratio": 0.5}, "num_classes": 4}, {}),
    "everywhere": ("effnet_se_test", {"attn_all": True}, {}),
    "not calm": ("effnet_cbam_test", {"calm": False}, {}),
    "in_chans": ("effnet_cbam_test", {"in_chans": 1, "num_classes": 3}, {}),
    "TensorFlow's padding": ("effnet_cbam_lite0.tf_in1k", {"num_classes": 3}, {}),
    "bfloat16": ("effnet_cbam_test", {"num_classes": 3}, {"dtype": torch.bfloat16}),
}


def stirred(name: str, kwargs, to=None) -> nn.Module:
    model = timm.create_model(name, **kwargs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.to(**to) if to else model


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(tmp_path, case, log):
    name, kwargs, to = CASES[case]
    model = stirred(name, kwargs, to).eval()
    assert save_model(model, tmp_path / "run") == tmp_path / "run"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "model.safetensors"]
    again = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    assert list(again.state_dict()) == list(model.state_dict()) and [n for _, n, _ in attention_slots(again)] == [
        n for _, n, _ in attention_slots(model)
    ]
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key].to(value.dtype), value), key
    x = torch.randn(2, kwargs.get("in_chans", 3), 49, 49)
    if "dtype" not in to:
        with torch.no_grad():
            assert torch.allclose(again(x), model(x), atol=1e-6) if to else torch.equal(again(x), model(x))
    assert log() == []
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    timms = {"se": "test_efficientnet"}  # the very network is timm's: see test_swapped.py for those that load without this package
    assert config["architecture"] == timms.get(case, name.partition(".")[0]) and config["num_classes"] == model.num_classes
    assert "num_classes" not in config.get("model_args", {})


@pytest.mark.parametrize("feature_cls", [None, "getter"])
def test_saved_network_as_features(tmp_path, feature_cls):
    model = stirred("effnet_se_test", {"attn_stages": {0: "cbam"}, "num_classes": 4}).eval()
    save_model(model, tmp_path)
    part = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True, feature_cls=feature_cls).eval()
    x = torch.randn(1, 3, 64, 64)
    for ours, wanted in zip(part(x), model.forward_intermediates(x, intermediates_only=True), strict=True):
        assert torch.equal(ours, wanted)


def test_saved_network_with_a_new_classifier(tmp_path):
    model = stirred("effnet_cbam_test", {"num_classes": 4})
    save_model(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=9, in_chans=1)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith(("classifier.", "conv_stem."))}
    assert same(again, kept) and any(".se." in key for key in kept) and again.classifier.out_features == 9


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 9}, {"features_only": True}], ids=str)
def test_damaged_directory(tmp_path, kwargs):
    save_model(stirred("effnet_cbam_test", {"num_classes": 4}), tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for key in ("blocks.2.0.bn1.bias", "blocks.2.0.se.channel.fc1.bias"):
        safetensors.torch.save_file({k: v for k, v in state.items() if k != key}, tmp_path / "model.safetensors")
        with pytest.raises(RuntimeError, match=f"lacks {key}"):
            timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **kwargs)


def test_swap_on_loading_a_directory(tmp_path, log):
    """A saved network with another attention asked for: its backbone, fresh gates."""
    model = stirred("effnet_cbam_test", {"num_classes": 4})
    save_model(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, attn_stages={4: "eca"})
    assert same(again, backbone(model.state_dict())) and [n for _, n, _ in attention_slots(again)] == ["cbam"] * 4 + ["eca"]
    assert "new: 1 gates, 1 gates of the file left out" in log()[0]


def test_a_directory_that_lost_the_gates_of_a_stage_is_refused(tmp_path):
    """As the base of another attention such a file would do; as the network itself it is damaged."""
    save_model(stirred("effnet_cbam_test", {"num_classes": 4}), tmp_path)
    file = tmp_path / "model.safetensors"
    state = safetensors.torch.load_file(file)
    safetensors.torch.save_file({key: tensor for key, tensor in state.items() if not key.startswith("blocks.1.0.se.")}, file)
    for how in ({}, {"num_classes": 7}):
        with pytest.raises(RuntimeError, match="lacks blocks.1.0.se.channel.fc1.bias"):
            timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **how)


def test_what_the_config_says(tmp_path):
    model = timm.create_model("effnet_cbam_test", num_classes=2, drop_rate=0.1, attn_kwargs={"kernel_size": 3})
    data = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear", "crop_pct": 1.0}
    save_model(model, tmp_path, label_names=["cat", "dog"], data_config=data, extra={"epochs": 5})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["label_names"] == ["cat", "dog"] and config["epochs"] == 5
    assert config["model_args"] == {"attn_kwargs": {"kernel_size": 3}, "in_chans": 3, "global_pool": "avg"}, "timm leaves drop rates out"
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.pretrained_cfg["label_names"] == ["cat", "dog"] and again.num_classes == 2
    found = timm.data.resolve_model_data_config(again)
    assert {key: tuple(found[key]) if isinstance(found[key], list) else found[key] for key in data} == data


def test_writing_again_replaces(tmp_path):
    save_model(timm.create_model("effnet_cbam_test", num_classes=2), tmp_path)
    model = stirred("effnet_cbam_test", {"num_classes": 3})
    save_model(model, tmp_path)
    assert same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), model.state_dict())


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    """The configuration could be written, the weights not: neither is replaced."""
    model = stirred("effnet_cbam_test", {"num_classes": 2})
    save_model(model, tmp_path)

    def full(path, content, write=files.write_new):
        if "model.safetensors" in path.name:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(files, "write_new", full)
    with pytest.raises(files.CannotWrite, match="config.json, model.safetensors cannot be written: No space left on device"):
        save_model(timm.create_model("effnet_cbam_test", num_classes=3), tmp_path)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), model.state_dict())


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(2, 2), lambda: timm.create_model("effnet_cbam_test", features_only=True)], ids=["linear", "features"]
)
def test_what_cannot_be_saved(tmp_path, make):
    with pytest.raises(ValueError, match="expected a whole network from timm.create_model, got"):
        save_model(make(), tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""The names do what timm's own EfficientNets do, and what is ours on top: attention by stage, options, a calm start, names at run time."""

import copy
import pickle
import sys

import pytest
import timm
import torch
from timm.models._features_fx import GraphExtractNet
from torch import nn

import zoo  # noqa: F401
from registry import ATTENTION
from zoo.attention import CBAM, ECA, SE
from zoo.backbones import VARIANTS, attention_slots, effnet

MODELS = [f"effnet_{attention}_test" for attention in ("none", "se", "eca", "cbam")]
GATED = ["effnet_cbam_test", "effnet_eca_b0"]
scripting = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # torch says so to everybody who scripts; timm's users do
checkpointing = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # the stem's output may not


def build(name: str, **kwargs) -> nn.Module:
    return timm.create_model(name, **{"num_classes": 7, **kwargs})


def stir(model: nn.Module) -> nn.Module:
    """As after training: nothing calm, no running statistic at its start."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.05)
    return model


def images(batch: int = 2, size: int = 48, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, size, size)


def names(model: nn.Module) -> dict[str, str]:
    return {path: name for path, name, _ in attention_slots(model)}


# ---- what timm's own test suite asks of a model


@pytest.mark.parametrize("name", MODELS)
def test_forward(name):
    model = build(name).eval()
    with torch.no_grad():
        for batch, size in ((1, 32), (2, 64)):
            y = model(images(batch, size))
            assert y.shape == (batch, 7) and y.isfinite().all()
    assert model.train()(images(1, 64)).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_backward(name):
    model = build(name, num_classes=42).train()
    model(images(2, 64)).mean().backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_matters(name):
    """A calm gate's first layer waits for its last one; once stirred, a zero gradient is a part that is not plugged in."""
    model = stir(build(name)).train()
    model(images(4, 64)).square().sum().backward()
    assert [key for key, parameter in model.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("name", MODELS)
def test_default_cfg(name):
    model = build(name, num_classes=1000).eval()
    cfg, keys = model.default_cfg, model.state_dict()
    x = images(1, cfg["input_size"][-1])
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape[-2:] == cfg["pool_size"] and features.shape[1] == model.num_features
        assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
        assert model.forward_head(features).shape == (1, 1000)
        model.reset_classifier(0)
        assert model(x).shape == (1, model.num_features)
        model.reset_classifier(0, "")
        assert model(x).shape == features.shape
    assert cfg["first_conv"] + ".weight" in keys and cfg["classifier"] + ".weight" in keys


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", "fast", ""])
def test_global_pool(name, pool):
    model = build(name, num_classes=0, global_pool=pool).eval()
    with torch.no_grad():
        y = model(images())
    assert y.shape == ((2, model.num_features, 2, 2) if pool == "" else (2, model.num_features * (2 if pool == "catavgmax" else 1)))


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("in_chans", [1, 4])
def test_in_chans(name, in_chans):
    assert build(name, in_chans=in_chans).eval()(images(channels=in_chans)).shape == (2, 7)


@pytest.mark.parametrize("name", GATED)
def test_reset_classifier(name):
    model = build(name).eval()
    model.reset_classifier(5, "max")
    assert model(images()).shape == (2, 5) and model.num_classes == 5 and model.get_classifier().out_features == 5
    assert build(name, num_classes=0).eval()(images()).shape == (2, model.num_features)


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_output_stride(name, output_stride):
    model = build(name, output_stride=output_stride).eval()
    with torch.no_grad():
        assert model.forward_features(images(1, 64)).shape[-1] == 64 // output_stride
    assert len(names(model)) == len(names(build(name)))


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize(
    "how", [{}, {"feature_cls": "fx"}, {"feature_cls": "getter"}, {"feature_cls": "hook"}, {"feature_location": "expansion"}], ids=str
)
def test_features_only(name, how):
    model = timm.create_model(name, features_only=True, **how).eval()
    timms = timm.create_model(VARIANTS[name.split("_", 2)[2]].base, features_only=True, device="meta", **how)
    assert model.feature_info.channels() == timms.feature_info.channels()
    assert model.feature_info.reduction() == timms.feature_info.reduction() == [2, 4, 8, 16, 32]
    with torch.no_grad():
        maps = model(images(1, 64))
    assert [tuple(each.shape) for each in maps] == [
        (1, c, 64 // r, 64 // r) for c, r in zip(timms.feature_info.channels(), (2, 4, 8, 16, 32), strict=True)
    ]
    gates = {path for path, _ in model.named_modules() if path.endswith(".se.conv") or path.endswith(".se.spatial.conv")}
    blocks = sum(len(stack) for stack in timm.create_model(name, device="meta").blocks)
    assert len(gates) == blocks, "the gates are in the feature network as well"
    assert "classifier" not in model.default_cfg and "num_classes" not in model.default_cfg


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("how", [{}, {"feature_cls": "getter"}], ids=str)
@pytest.mark.parametrize("out_indices", [(1, 3), (-1,), (-3, -2)])
def test_out_indices(name, how, out_indices):
    everything = timm.create_model(name, features_only=True, **how)
    some = timm.create_model(name, features_only=True, out_indices=out_indices, **how).eval()
    assert some.feature_info.channels() == [
        everything.feature_info.channels()[i] for i in range(5) if i in out_indices or i - 5 in out_indices
    ]
    assert [each.shape[1] for each in some(images(1))] == some.feature_info.channels()


def test_expansion_features_are_behind_the_gate():
    """The gates come after timm has hooked its feature maps: what is hooked must be what the projection gets."""
    model = timm.create_model("effnet_cbam_b0", features_only=True, feature_location="expansion", out_indices=(3,)).eval()
    saw = []
    (hooked,) = model.feature_info.get_dicts(keys=("module",))
    model.get_submodule(hooked["module"].rpartition(".")[0] + ".se").register_forward_hook(lambda module, args, output: saw.append(output))
    with torch.no_grad():
        (features,) = model(images(1, 64))
    assert torch.equal(features, saw[0])


@pytest.mark.parametrize("name", GATED)
def test_features_equal_the_networks(name):
    torch.manual_seed(3)
    whole = timm.create_model(name).eval()
    part = timm.create_model(name, features_only=True).eval()
    state = {key: value for key, value in whole.state_dict().items() if not key.startswith(("conv_head", "bn2", "classifier"))}
    part.load_state_dict(state, strict=True)
    x = images(2, 64)
    final, middle = whole.forward_intermediates(x)
    assert torch.equal(final, whole.forward_features(x))
    for ours, wanted in zip(part(x), middle, strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("name", GATED)
def test_drop_path_rate(name):
    ours = build(name, drop_path_rate=0.3)
    timms = build(VARIANTS[name.split("_", 2)[2]].base, drop_path_rate=0.3, device="meta")
    rates = [[round(m.drop_prob, 6) for m in model.modules() if type(m).__name__ == "DropPath"] for model in (ours, timms)]
    assert rates[0] == rates[1] != []
    assert ours.train()(images()).isfinite().all()


@pytest.mark.parametrize("name", GATED)
def test_layer_groups(name):
    from timm.models import group_parameters

    model = build(name)
    for coarse in (True, False):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        grouped = [key for keys in groups.values() for key in keys]
        assert sorted(grouped) == sorted(key for key, _ in model.named_parameters())
    where = {key: group for group, keys in groups.items() for key in keys}
    for path in names(model):
        keys = [key for key in where if key.startswith(path.rpartition(".")[0] + ".")]
        assert len({where[key] for key in keys}) == 1, "a gate learns at its block's rate"


@checkpointing
@pytest.mark.parametrize("name", MODELS)
def test_grad_checkpointing(name):
    model = stir(build(name)).eval()
    x = images()
    plain = model(x)
    plain.sum().backward()
    wanted = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    again = model(x)
    again.sum().backward()
    assert torch.allclose(again, plain, atol=1e-6)
    for key, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, wanted[key], atol=1e-4), key


@scripting
@pytest.mark.parametrize("name", [*MODELS, "effnet_cbam_b0"])
def test_torchscript(name):
    model = stir(build(name, scriptable=True)).eval()
    scripted = torch.jit.script(model)
    with torch.no_grad():
        x = images()
        assert torch.allclose(scripted(x), model(x), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_fx(name):
    model = stir(build(name)).eval()
    traced = GraphExtractNet(copy.deepcopy(model), ["classifier"])
    x = images()
    with torch.no_grad():
        assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_export(name):
    model = stir(build(name)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images(),), dynamic_shapes=({0: batch},)).module()
    with torch.no_grad():
        x = images(3)
        assert torch.allclose(program(x), model(x), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_copies(name):
    model = stir(build(name)).eval()
    x = images(1)
    with torch.no_grad():
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_and_channels_last(dtype):
    model = build("effnet_cbam_test", dtype=dtype).eval().to(memory_format=torch.channels_last)
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {dtype}
    with torch.no_grad():
        features = model.forward_features(images().to(dtype).to(memory_format=torch.channels_last))
    assert features.dtype == dtype and features.isfinite().all() and features.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "kwargs, act", [({"act_layer": "relu"}, nn.ReLU), ({"norm_layer": "groupnorm1"}, nn.SiLU), ({"bn_eps": 1e-3}, nn.SiLU)], ids=str
)
def test_other_layers(kwargs, act):
    model = build("effnet_cbam_test", **kwargs).eval()
    assert model(images()).isfinite().all()
    assert isinstance(model.blocks[3][0].se.channel.act, act), "a gate's activation is its block's"


# ---- names and tags


def test_tags():
    assert build("effnet_cbam_b0", device="meta").default_cfg["tag"] == "ra_in1k"
    assert build("effnet_cbam_b0.tf_ns_jft_in1k", device="meta").default_cfg["tag"] == "tf_ns_jft_in1k"
    with pytest.raises(RuntimeError, match="Invalid pretrained tag.*nonsense.*effnet_cbam_b0"):
        build("effnet_cbam_b0.nonsense")


def test_a_tf_tag_brings_tensorflows_padding():
    plain, tf = build("effnet_cbam_b0", device="meta"), build("effnet_cbam_b0.tf_in1k", device="meta")
    assert type(plain.conv_stem) is nn.Conv2d and type(tf.conv_stem).__name__ == "Conv2dSame"
    assert plain.bn1.eps == 1e-5 and tf.bn1.eps == 1e-3


def test_listing():
    assert timm.list_models("effnet_cbam_v2_*") == sorted(f"effnet_cbam_{v}" for v in VARIANTS if v.startswith("v2_"))
    assert timm.is_model("effnet_eca_lite0") and "effnet_eca_lite0" in effnet.__all__
    assert timm.models.is_model_pretrained("effnet_eca_lite0") and not timm.models.is_model_pretrained("effnet_eca_b6")
    entrypoint = timm.model_entrypoint("effnet_eca_b1")
    assert entrypoint is vars(sys.modules[entrypoint.__module__])["effnet_eca_b1"]
    assert pickle.loads(pickle.dumps(entrypoint)) is entrypoint
    assert entrypoint(device="meta").default_cfg["architecture"] == "effnet_eca_b1"


# ---- equality with timm


@pytest.mark.parametrize(
    "ours, timms",
    [("effnet_se_b0", "efficientnet_b0"), ("effnet_none_lite0", "efficientnet_lite0"), ("effnet_se_test", "test_efficientnet")],
)
def test_the_same_function_as_timms(ours, timms):
    wanted = stir(timm.create_model(timms)).eval()
    model = timm.create_model(ours).eval()
    model.load_state_dict(wanted.state_dict(), strict=True)
    x = images(2, 64)
    with torch.no_grad():
        assert torch.equal(model(x), wanted(x))


def test_the_same_function_as_timms_tf():
    wanted = stir(timm.create_model("tf_efficientnet_b0")).eval()
    model = timm.create_model("effnet_se_b0.tf_in1k").eval()
    model.load_state_dict(wanted.state_dict(), strict=True)
    x = images(2, 63)
    with torch.no_grad():
        assert torch.equal(model(x), wanted(x))


@pytest.mark.parametrize("calm", [True, False])
def test_one_seed_one_trunk(calm):
    """Gates draw their numbers last, so a comparison of attentions is not one of seeds."""

    def trunk(attention: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(11)
        model = build(f"effnet_{attention}_b0", calm=calm)
        return {key: value for key, value in model.state_dict().items() if ".se." not in key}

    wanted = trunk("none")
    for attention in ("se", "eca", "cbam"):
        found = trunk(attention)
        assert list(found) == list(wanted) and all(torch.equal(found[key], wanted[key]) for key in wanted)
    if not calm:
        torch.manual_seed(11)
        timms = build("efficientnet_b0", se_layer=nn.Identity)
        assert all(torch.equal(value, wanted[key]) for key, value in timms.state_dict().items())


# ---- ours on top


@pytest.mark.parametrize("key", [int, str])
def test_attn_stages(key):
    chosen = {key(1): "eca", key(3): {"name": "cbam", "kernel_size": 3}, key(4): "none"}
    model = build("effnet_se_test", attn_stages=chosen, attn_all=True)
    assert names(model) == {"blocks.0.0.se": "se", "blocks.1.0.se": "eca", "blocks.2.0.se": "se", "blocks.3.0.se": "cbam"}
    assert model.blocks[3][0].se.spatial.conv.kernel_size == (3, 3)
    assert chosen[key(3)] == {"name": "cbam", "kernel_size": 3}, "the caller's dict is the caller's"
    assert model.eval()(images()).isfinite().all()


@pytest.mark.parametrize("stage", [5, -1, "17"])
def test_attn_stages_beyond_the_network(stage):
    with pytest.raises(ValueError, match=f"test has stages 0 to 4, got {stage}"):
        build("effnet_se_test", attn_stages={stage: "eca"})


def test_attn_stages_without_attention():
    with pytest.raises(TypeError, match=r"attn_stages: expected stages and their attention, such as .*, got \[4, 5\]"):
        build("effnet_se_test", attn_stages=[4, 5])


def test_attn_stages_unknown_attention():
    with pytest.raises(KeyError) as caught:
        build("effnet_se_test", attn_stages={1: "simm"})
    assert str(caught.value).startswith("unknown attention 'simm'; did you mean 'simam'")
    with pytest.raises(ValueError, match=r"attn_stages\[1\]: expected an attention name"):
        build("effnet_se_test", attn_stages={1: {"kernel_size": 3}})


def test_attn_kwargs():
    model = build("effnet_cbam_test", attn_kwargs={"rd_ratio": 0.5, "kernel_size": 5}, attn_stages={2: "cbam"})
    assert model.blocks[3][0].se.channel.fc1.out_features == model.blocks[3][0].conv_pwl.in_channels // 2
    assert model.blocks[3][0].se.spatial.conv.kernel_size == (5, 5)
    assert model.blocks[2][0].se.spatial.conv.kernel_size == (7, 7), "options are of the name's own gate"
    with pytest.raises(TypeError, match="no_such_option"):
        build("effnet_cbam_test", attn_kwargs={"no_such_option": 1})


def test_attn_all():
    def count(name: str, everywhere: bool) -> int:
        return len(names(timm.create_model(name, attn_all=everywhere, device="meta")))

    models = ("effnet_se_v2_s", "effnet_cbam_v2_s", "effnet_se_lite0")
    assert {(name, everywhere): count(name, everywhere) for name in models for everywhere in (True, False)} == {
        ("effnet_se_v2_s", True): 40,
        ("effnet_se_v2_s", False): 30,
        ("effnet_cbam_v2_s", True): 40,
        ("effnet_cbam_v2_s", False): 30,
        ("effnet_se_lite0", True): 16,
        ("effnet_se_lite0", False): 0,
    }


def test_calm_is_the_default():
    calm, wild = build("effnet_cbam_test"), build("effnet_cbam_test", calm=False)
    assert all(gate.calm for _, _, gate in attention_slots(calm)) and not any(gate.calm for _, _, gate in attention_slots(wild))
    assert not any(gate.channel.fc2.weight.any() for _, _, gate in attention_slots(calm))
    assert all(gate.channel.fc2.weight.any() for _, _, gate in attention_slots(wild))
    assert calm.classifier.weight.std() < 0.02 and not calm.classifier.bias.any()
    assert wild.classifier.weight.abs().max() > 0.3, "timm's: uniform in 1 / sqrt(classes)"
    x = images(4, 64)
    assert calm.train()(x).std() < 0.3 < wild.train()(x).std()
    mixed = build("effnet_cbam_test", attn_stages={0: {"name": "cbam", "calm": False}})
    assert [gate.calm for _, _, gate in attention_slots(mixed)] == [False, True, True, True, True]


def test_se_layer_is_refused():
    with pytest.raises(ValueError, match="effnet_cbam_test: the name says which attention"):
        build("effnet_cbam_test", se_layer="eca")


def test_no_pretrained_weights():
    with pytest.raises(
        RuntimeError, match=r"effnet_cbam_b6.untrained has no pretrained weights; these have: .*effnet_cbam_b6.tf_ns_jft_in1k"
    ):
        build("effnet_cbam_b6", pretrained=True)


class Mine(nn.Module):
    """A person's own gate."""

    def __init__(self, channels, *, rd_ratio=0.25, act_layer="relu", calm=False, device=None, dtype=None, gain=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), gain, device=device, dtype=dtype))

    def init_weights(self):
        pass

    def forward(self, x):
        return x * self.scale[:, None, None]


def test_a_new_attention_brings_its_names(try_attention):
    with pytest.raises(RuntimeError, match="Unknown model"):
        build("effnet_mine_b0")
    try_attention("mine", Mine)
    assert set(timm.list_models("effnet_mine_*")) == {f"effnet_mine_{variant}" for variant in VARIANTS}
    model = build("effnet_mine_test", attn_kwargs={"gain": 2.0})
    assert list(names(model).values()) == ["mine"] * 5 and model.blocks[0][0].se.scale.eq(2).all()
    assert model(images()).shape == (2, 7)
    assert list(names(build("effnet_se_test", attn_stages={4: "mine"})).values())[-1] == "mine"
    assert timm.models.get_pretrained_cfg("effnet_mine_b0").hf_hub_id == "timm/efficientnet_b0.ra_in1k"


def test_and_leaves_none_behind():
    assert "mine" not in ATTENTION and not timm.list_models("effnet_mine_*") and not hasattr(effnet, "effnet_mine_b0")


def test_the_same_cell_again(try_attention):
    """Edited and run again: the name builds the newest definition."""
    try_attention("mine", Mine)
    again = type("Mine", (Mine,), {"__module__": Mine.__module__, "__qualname__": Mine.__qualname__})
    try_attention("mine", again)
    assert type(build("effnet_mine_test").blocks[0][0].se) is again


def test_a_name_that_reads_as_another_is_refused(try_attention):
    """ "cbam_v2" would make effnet_cbam_v2_b0, which is CBAM on V2-B0."""
    before = timm.list_models("effnet_*")
    with pytest.raises(ValueError, match="'cbam_v2': timm already has a model 'effnet_cbam_v2_b0'"):
        ATTENTION.register("cbam_v2")(Mine)
    assert "cbam_v2" not in ATTENTION and timm.list_models("effnet_*") == before, "not even half of its names"


def test_gates_of_all_kinds_together():
    model = build("effnet_se_test", attn_stages={0: "cbam", 1: "eca"}, attn_all=True)
    assert {type(gate) for _, _, gate in attention_slots(model)} == {CBAM, ECA, SE}

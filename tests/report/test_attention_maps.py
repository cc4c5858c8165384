"""zoo.attention_maps: what it gives out is what the forward pass applied, for every gate, in every kind of network; nothing is touched."""

import copy
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import get_attn
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from registry import ATTENTION
from zoo.report import attention_maps

GATES = sorted(name for name in ATTENTION if name != "none")
FUSED = {"cbam", "coord", "gc", "gca"}  # whose forward on a CPU sums in another order than its plain form (zoo/layers)
ADD = {"gca", "nl", "cpca"}  # output = input + something; cpca as it stands in networks
PARTS = {  # of products of several factors
    "cbam": ["channel", "spatial"],
    "lcbam": ["channel", "spatial"],
    "coord": ["columns", "rows"],
    "ela": ["rows", "columns"],
    "scsa": ["rows", "columns", "channel"],
}


def stir(model: nn.Module, by: float = 0.5) -> nn.Module:
    """Every gate away from its calm start."""
    with torch.no_grad():
        for _, _, gate in zoo.attention_slots(model):
            for parameter in gate.parameters():
                parameter.add_(torch.randn_like(parameter) * by)
            for name, buffer in gate.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.uniform_(0.3, 0.8)
    return model.eval()


@contextmanager
def watched(model: nn.Module):
    """Path -> (input, output) of each gate, of whatever forward pass is run inside."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    handles = [
        gate.register_forward_hook(lambda _, args, y, path=path: seen.__setitem__(path, (args[0].clone(), y.clone())))
        for path, _, gate in zoo.attention_slots(model)
    ]
    with torch.no_grad():
        yield seen
    for handle in handles:
        handle.remove()


def held(model: nn.Module, x: torch.Tensor, *, bits: bool, derived: bool = False) -> dict[str, zoo.report.AttentionMap]:
    """The maps of a network, each held against the forward pass that nobody looks at."""
    with watched(model) as seen:
        model(x)
    maps = attention_maps(model, x, inputs=True)
    assert list(maps) == [path for path, _, _ in zoo.attention_slots(model)] == list(seen)
    for path, found in maps.items():
        given, y = seen[path]
        assert torch.equal(found.input, given) and found.shape == given.shape
        assert found.derived == derived, path
        again = found.apply(given)
        eps = torch.finfo(y.dtype).eps
        if bits:
            assert torch.equal(again, y), path
        scale = float(y.abs().max())
        assert torch.allclose(again, y, rtol=8 * eps, atol=8 * eps * scale), path
        in_one = given * found.multiplier + (0 if found.added is None else found.added)
        in_one = in_one if found.order is None else in_one[:, found.order]
        if bits and len(found.parts) == 1 and found.added is None:
            assert torch.equal(in_one, y), path
        assert torch.allclose(in_one.to(y.dtype), y, rtol=8 * eps, atol=8 * eps * scale), path
        product = torch.ones((), dtype=found.multiplier.dtype)
        for part in found.parts.values():
            product = product * part
        assert torch.equal(product.expand(given.shape), found.multiplier.expand(given.shape))
    return maps


def picture(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3, 64, 48))


@pytest.mark.parametrize("name", GATES)
def test_what_was_applied(name):
    """In a network with gates that say something; two pictures, not square; to the last bit where the gate has no fused form."""
    model = stir(timm.create_model(f"effnet_{name}_test"), 0.1 if name == "cpca" else 0.5)  # its products of three maps grow fast
    maps = held(model, picture(), bits=name not in FUSED)
    assert len(maps) == (2 if name == "se" else 5) and {found.gate for found in maps.values()} == {name}
    assert [found.stage for found in maps.values()] == ([3, 4] if name == "se" else [0, 1, 2, 3, 4])
    for found in maps.values():
        assert (found.added is not None) == (name in ADD) and (not found.parts) == (name in ADD)
        if name in PARTS:
            assert list(found.parts) == PARTS[name]
        attends = ATTENTION[name].attends
        b, c, h, w = found.shape
        if attends == "channel" and name not in ADD | {"ge", "mlca"}:  # which weigh a channel here otherwise than there
            assert found.multiplier.shape == (b, c, 1, 1) and list(found.parts) == ["channel"]
        varies = found.added if found.added is not None else found.multiplier
        assert varies.std() > 1e-5, "a gate that says nothing proves nothing"


class _Plain(TorchDispatchMode):
    """Inside, nothing is fused; nothing else changes."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(FUSED))
def test_fused_gates_to_the_last_bit_of_their_plain_form(name):
    gate = ATTENTION[name](24)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    gate.eval()
    x = picture(2, 24, 9, 7)
    (found,) = attention_maps(gate, x).values()
    with torch.no_grad(), _Plain():
        plain = gate(x)
    assert torch.equal(found.apply(x), plain)


def test_none_has_nothing_to_show():
    assert attention_maps(timm.create_model("effnet_none_test"), picture()) == {}
    assert attention_maps(timm.create_model("resnet18"), picture()) == {}


@torch.no_grad()
def test_by_hand():
    """The numbers of four gates, from their parts and the papers' equations."""
    x = picture(2, 16, 6, 5)

    def of(gate):
        for parameter in gate.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        return gate.eval(), attention_maps(gate, x)[""]

    se, found = of(ATTENTION["se"](16))
    by_hand = se.gate(se.conv_expand(se.act1(se.conv_reduce(x.mean((2, 3), keepdim=True)))))
    assert torch.equal(found.parts["channel"], by_hand) and found.added is None

    cbam, found = of(ATTENTION["cbam"](16))
    channel = cbam.channel(x.mean((2, 3)), x.amax((2, 3)))
    assert torch.allclose(found.parts["channel"], channel)
    weighed = x * channel
    spatial = cbam.spatial(torch.cat([weighed.amax(1, keepdim=True), weighed.mean(1, keepdim=True)], 1))
    assert torch.allclose(found.parts["spatial"], spatial, atol=1e-6)

    bam, found = of(ATTENTION["bam"](16))
    assert torch.equal(found.multiplier, 1 + torch.sigmoid(bam.channel(x) * bam.spatial(x)))

    nl, found = of(ATTENTION["nl"](16))
    assert torch.equal(found.multiplier, torch.ones(1, 1, 1, 1)) and found.parts == {}
    assert torch.allclose(found.added, nl(x) - x, atol=1e-6)


def test_channels_that_move_are_told_in_the_order_of_the_input():
    gate = ATTENTION["sa"](16).eval()
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.add_(torch.randn_like(parameter))
    x = picture(2, 16, 6, 5)
    (found,) = attention_maps(gate, x).values()
    assert found.order.tolist() == gate.channel_order(16)
    with torch.no_grad():
        assert torch.equal((x * found.multiplier)[:, found.order], gate(x))


@pytest.mark.parametrize("old, new", [("se", "cbam"), ("none", "coord"), ("cbam", "sa"), ("sa", "eca"), ("bam", "nl"), ("gca", "scse")])
def test_half_way_through_a_swap(old, new):
    model = stir(timm.create_model(f"effnet_{old}_test"))
    zoo.swap_attention(model, new, keep="graft")
    stir(model)
    zoo.set_share(model, 0.3)
    maps = held(model, picture(), bits=False)
    assert {found.gate for found in maps.values()} == {f"{old}>{new}"}
    zoo.set_share(model, 1.0)
    zoo.finish_swap(model)
    assert {found.gate for found in held(model, picture(), bits=False).values()} == {new}


def test_half_way_is_the_mean_of_both():
    model = stir(timm.create_model("effnet_eca_test"))
    zoo.swap_attention(model, "ese", keep="graft")
    stir(model)
    x, shares = picture(), {}
    for share in (0.0, 0.5, 1.0):
        zoo.set_share(model, share)
        shares[share] = next(iter(attention_maps(model, x).values())).multiplier
    assert shares[0.0].shape[2:] == (1, 1) and not torch.allclose(shares[0.0], shares[1.0], atol=1e-3)
    assert torch.allclose(shares[0.5], (shares[0.0] + shares[1.0]) / 2, atol=1e-6)


def test_other_gates_in_other_stages():
    model = stir(timm.create_model("effnet_se_test", attn_stages={1: "cbam", 3: "eca", 4: "sa"}))
    maps = held(model, picture(), bits=False)
    assert [(found.stage, found.gate) for found in maps.values()] == [(1, "cbam"), (3, "eca"), (4, "sa")]


@pytest.mark.parametrize("name", ["eca", "sa"])
def test_pruned(name):
    pytest.importorskip("torch_pruning", reason="pip install 'effnet-zoo[prune]'")
    model = stir(timm.create_model(f"effnet_{name}_test"))
    before = [found.shape[1] for found in attention_maps(model, picture()).values()]
    zoo.prune(model, macs=0.6)
    after = [found.shape[1] for found in held(model, picture(), bits=True).values()]
    assert sum(after) < sum(before)


@pytest.mark.parametrize(
    "name, gate, count",
    [
        ("seresnet18", "se", 8),
        ("efficientnet_b0", "se", 16),
        ("mobilenetv3_small_050", "se", 9),
        ("legacy_seresnet18", "se", 8),
        ("ese_vovnet19b_slim", "ese", 4),
        ("ecaresnet26t", "eca", 8),
        ("gcresnext26ts", "gc", 8),
        ("regnety_002", "se", 13),
    ],
)
def test_timms_own_networks(name, gate, count):
    maps = held(timm.create_model(name).eval(), picture(1, 3, 64, 96), bits=True)
    assert len(maps) == count and {found.gate for found in maps.values()} == {gate}


@pytest.mark.parametrize(
    "name, options, parts",
    [
        ("se", {}, ["channel"]),
        ("ecam", {}, ["channel"]),
        ("ceca", {}, ["channel"]),
        ("ge", {"use_mlp": False}, ["channel"]),
        ("gc", {}, ["channel"]),
        ("gca", {}, []),
        ("gc", {"fuse_add": True}, ["channel"]),
        ("cbam", {}, ["channel", "spatial"]),
        ("lcbam", {}, ["channel", "spatial"]),
        ("coord", {}, ["columns", "rows"]),
        ("scoord", {}, ["both"]),
        ("ela", {}, ["rows", "columns"]),
        ("strip", {}, ["both"]),
        ("nl", {}, []),
        ("bat", {"block_size": 4}, []),
    ],
)
def test_timms_own_gates(name, options, parts):
    gate = get_attn(name)(64, **options)
    maps = held(stir(gate, 0.1), picture(2, 64, 8, 12), bits=True)
    assert list(maps[""].parts) == parts and (maps[""].added is not None) == (not parts or "fuse_add" in options)


@pytest.mark.parametrize("name", ["cbam", "sa", "ema", "gct", "coord", "nl"])
@pytest.mark.parametrize("how", ["bfloat16", "autocast", "channels_last", "double"])
def test_in_other_numbers(name, how):
    model = stir(timm.create_model(f"effnet_{name}_test"))
    x = picture()
    if how == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            held(model, x, bits=True)
        return
    if how == "channels_last":
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    else:
        model, x = model.to(getattr(torch, how)), x.to(getattr(torch, how))
    maps = held(model, x, bits=how == "bfloat16" or name not in FUSED)
    assert {found.multiplier.dtype for found in maps.values()} == {x.dtype}


def test_one_pixel_and_one_picture():
    maps = held(stir(timm.create_model("effnet_cbam_test")), picture(1, 3, 8, 8), bits=False)
    last = list(maps.values())[-1]
    assert last.shape[2:] == (1, 1) and list(last.parts) == ["channel", "spatial"]


def test_a_trunk_that_gives_features():
    maps = held(stir(timm.create_model("effnet_cbam_test", features_only=True)), picture(), bits=False)
    assert [found.stage for found in maps.values()] == [0, 1, 2, 3, 4]


def test_the_image_tower_of_a_joint_embedding():
    joint = zoo.create_joint({"image": "effnet_eca_test", "text": "bag"}, embed_dim=8)
    stir(joint)
    x = picture()
    maps, same = attention_maps(joint, x), attention_maps(joint, {"image": x})
    assert list(maps) == [f"towers.image.blocks.{stage}.0.se" for stage in range(5)]
    alone = attention_maps(joint.towers["image"], x)
    for found, given, tower in zip(maps.values(), same.values(), alone.values(), strict=True):
        assert found.stage == tower.stage
        assert torch.equal(found.multiplier, tower.multiplier) and torch.equal(found.multiplier, given.multiplier)


def test_compiled():
    pytest.importorskip("torch._dynamo")
    model = stir(timm.create_model("effnet_eca_test"))
    x = picture()
    expected = attention_maps(model, x)
    outside = attention_maps(torch.compile(copy.deepcopy(model), backend="eager"), x)
    inside = copy.deepcopy(model)
    inside.compile(backend="eager")
    for maps in (outside, attention_maps(inside, x)):
        assert list(maps) == list(expected)
        for path, found in maps.items():
            assert torch.equal(found.multiplier, expected[path].multiplier)


@pytest.mark.parametrize("name", ["cbam", "srm", "bam", "nl"])
def test_the_model_is_left_as_it_was(name):
    model = stir(timm.create_model(f"effnet_{name}_test", drop_rate=0.5, drop_path_rate=0.5)).train()
    model.blocks[1].eval()
    model(picture()).sum().backward()
    heard = []
    mine = model.blocks[0][0].se.register_forward_hook(lambda *_: heard.append(1))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    grads = {key: value.grad.clone() for key, value in model.named_parameters()}
    modes = {path: module.training for path, module in model.named_modules()}
    hooks = {path: (len(module._forward_hooks), len(module._forward_pre_hooks)) for path, module in model.named_modules()}
    wanted = {key: value.requires_grad for key, value in model.named_parameters()}
    x = picture()
    before, random = x.clone(), torch.get_rng_state()
    maps = attention_maps(model, x)
    assert len(heard) == 1, "who listens hears one forward pass"
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(x, before) and torch.is_grad_enabled()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value.grad, grads[key]) for key, value in model.named_parameters())
    assert {path: module.training for path, module in model.named_modules()} == modes
    assert {key: value.requires_grad for key, value in model.named_parameters()} == wanted
    assert {path: (len(module._forward_hooks), len(module._forward_pre_hooks)) for path, module in model.named_modules()} == hooks
    assert not any(found.multiplier.requires_grad for found in maps.values())
    mine.remove()
    again = attention_maps(model.eval(), x)
    assert all(torch.equal(found.multiplier, again[path].multiplier) for path, found in maps.items()), "as in eval mode"


def test_numbers_that_are_none():
    model = stir(timm.create_model("effnet_cbam_test"))
    x = picture()
    x[0, 0, 0, 0] = float("nan")
    maps = attention_maps(model, x)
    assert not any(found.derived for found in maps.values())
    assert all(found.multiplier[0].isnan().any() and found.multiplier[1].isfinite().all() for found in maps.values())
    assert [found.multiplier.shape[0] for found in attention_maps(model, picture(0, 3, 32, 32)).values()] == [0] * 5


def test_hooks_go_where_the_network_fails():
    model = timm.create_model("effnet_cbam_test").train()
    with pytest.raises(RuntimeError):
        attention_maps(model, picture(1, 5, 32, 32))
    assert model.training and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Doubtful(nn.Module):
    """What a third party might write: `how` it answers."""

    attends = "channel"

    def __init__(self, channels, *, how="product", rd_ratio=0.25, act_layer=None, calm=False, device=None, dtype=None):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)
        self.how = how

    def forward(self, x):
        gate = self.fc(x.mean((2, 3), keepdim=True)).sigmoid()
        if self.how == "product":
            return x * gate
        if self.how == "shuffled":
            return torch.channel_shuffle(x * gate, 2)
        if self.how == "flipped":
            return (x * gate).flip(1)
        if self.how == "turned":  # places change: no multiplier says that
            return (x * gate).transpose(2, 3).contiguous().view(x.shape)
        if self.how == "in place":
            return x.mul_(gate)
        if self.how == "two paths":
            return x * gate + x * 0.5 - x / 4
        if self.how == "spoiled":  # the factor is overwritten behind the product
            y = x * gate
            gate.zero_()
            return y
        if self.how == "einsum":
            return torch.einsum("bchw,bc->bchw", x, gate.flatten(1))
        if self.how == "reused":
            x *= gate
            x += 1
            return x.clone().relu_()
        return self.fc(x)


@pytest.mark.parametrize("how", ["product", "shuffled", "flipped", "in place", "two paths"])
def test_somebody_elses_gate(try_attention, how):
    try_attention("doubtful", Doubtful)
    model = stir(timm.create_model("effnet_doubtful_test", attn_kwargs={"how": how}))
    if how == "in place":  # the input is gone once the gate has run
        maps = attention_maps(model, picture(), inputs=True)
        gates = dict(model.named_modules())
        for path, found in maps.items():
            assert not found.derived and torch.equal(found.apply(found.input), gates[path](found.input.clone()))
        return
    maps = held(model, picture(), bits=how != "two paths")
    assert all(found.multiplier.shape[1:] == (found.shape[1], 1, 1) for found in maps.values())
    assert all((found.order is not None) == (how in ("shuffled", "flipped")) for found in maps.values())


@pytest.mark.parametrize("how", ["turned", "spoiled", "reused", "convolution"])
def test_where_the_trail_is_lost(how):
    """Output / input; where the input says nothing, 1, and what came out is called added."""
    gate = Doubtful(8, how=how).eval()
    x = picture(2, 8, 6, 6)
    x[:, 0, 0] = 0
    with torch.no_grad():
        y = gate(x.clone())
    zoo_gate = ATTENTION._things.setdefault("doubtful", Doubtful)
    try:
        (found,) = attention_maps(gate, x.clone()).values()  # which some of them write into
    finally:
        assert ATTENTION._things.pop("doubtful") is zoo_gate
    assert found.derived and list(found.parts) == ["both"] and found.multiplier.isfinite().all()
    assert torch.allclose(found.apply(x), y, atol=1e-6)
    assert (found.multiplier[:, 0, 0] == 1).all()
    if how in ("convolution", "reused"):
        assert torch.equal(found.added[:, 0, 0], y[:, 0, 0])


def test_a_product_in_einsum():
    """Whether it is followed or derived, it is the gate."""
    gate = Doubtful(8, how="einsum").eval()
    x = picture(2, 8, 6, 6)
    ATTENTION._things["doubtful"] = Doubtful
    try:
        (found,) = attention_maps(gate, x).values()
    finally:
        del ATTENTION._things["doubtful"]
    with torch.no_grad():
        expected = gate.fc(x.mean((2, 3), keepdim=True)).sigmoid().expand(x.shape)
    assert torch.allclose(found.multiplier.expand(x.shape), expected, atol=1e-5)


def test_the_page_is_true(capsys):
    """What docs/explain.md shows runs, and says what it says."""
    page = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(block, "docs/explain.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "cbam 4",
        "torch.Size([2, 192, 5, 5])",
        "torch.Size([2, 192, 1, 1]) torch.Size([2, 1, 5, 5])",
    ]

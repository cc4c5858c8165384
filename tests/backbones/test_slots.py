"""Where the gates sit: after the depthwise convolution (the expansion in fused blocks), as wide as it, with EfficientNet's reduction."""

import pytest
import timm
import torch
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual, SqueezeExcite
from torch import nn

import zoo  # noqa: F401
from zoo.attention import CBAM, ECA, SE
from zoo.backbones import attention_slots
from zoo.backbones.slots import GatedConvBnAct, Slot, blocks, put_gate


class Recorder(nn.Module):
    """A gate that remembers what it was asked for and what it saw, and doubles it."""

    def __init__(self, channels: int, **asked):
        super().__init__()
        self.channels, self.asked = channels, asked

    def forward(self, x):
        self.seen = x
        return 2 * x


def test_a_slot_draws_no_random_numbers():
    before = torch.get_rng_state()
    Slot(32, rd_ratio=0.25, act_layer=nn.SiLU)
    assert torch.equal(before, torch.get_rng_state())


def test_every_kind_of_block_is_found():
    kinds = {
        "b0": {DepthwiseSeparableConv, InvertedResidual},
        "es": {EdgeResidual, InvertedResidual},
        "v2_s": {ConvBnAct, EdgeResidual, InvertedResidual},
        "lite0": {DepthwiseSeparableConv, InvertedResidual},
    }
    for variant, wanted in kinds.items():
        model = timm.create_model(f"efficient{'netv2' if variant == 'v2_s' else 'net'}_{variant.removeprefix('v2_')}", device="meta")
        found = list(blocks(model))
        assert {type(block) for _, _, block in found} == wanted
        assert [path for _, path, _ in found] == [f"blocks.{i}.{j}" for i, stack in enumerate(model.blocks) for j in range(len(stack))]
        assert all(path.split(".")[1] == str(stage) and model.get_submodule(path) is block for stage, path, block in found)


BLOCKS = {
    "ds": (lambda: DepthwiseSeparableConv(16, 24, act_layer=nn.SiLU), "bn1", "conv_pw", 16, 0.25),
    "ir": (lambda: InvertedResidual(16, 16, exp_ratio=6, act_layer=nn.SiLU), "bn2", "conv_pwl", 96, 0.25 / 6),
    "er": (lambda: EdgeResidual(16, 16, exp_ratio=4, act_layer=nn.SiLU), "bn1", "conv_pwl", 64, 0.25 / 4),
    "er, force_in_chs": (lambda: EdgeResidual(16, 24, exp_ratio=4, force_in_chs=24, act_layer=nn.SiLU), "bn1", "conv_pwl", 96, 0.25 / 6),
    "cn": (lambda: ConvBnAct(16, 24, 3, act_layer=nn.SiLU), "bn1", None, 24, 0.25 * 16 / 24),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_position_and_width(kind):
    make, before, after, channels, rd_ratio = BLOCKS[kind]
    block, saw = make(), {}
    block.get_submodule(before).register_forward_hook(lambda module, args, output: saw.update(before=output.detach().clone()))
    if after:
        block.get_submodule(after).register_forward_pre_hook(lambda module, args: saw.update(after=args[0].detach().clone()))
    put_gate(block, Recorder, {"calm": True})
    x = torch.randn(2, 16, 6, 6)
    y = block(x)
    assert block.se.channels == channels
    assert block.se.asked["rd_ratio"] == pytest.approx(rd_ratio) and block.se.asked["act_layer"] is nn.SiLU
    assert block.se.asked["calm"] is True and block.se.asked["dtype"] is torch.float32 and block.se.asked["device"] == torch.device("cpu")
    assert torch.equal(block.se.seen, saw["before"]), "after the activation"
    assert torch.equal(saw["after"] if after else y, 2 * block.se.seen)


def test_plain_convolution_block_keeps_its_skip():
    torch.manual_seed(0)
    block = ConvBnAct(16, 16, 3, skip=True, act_layer=nn.SiLU).eval()
    x = torch.randn(2, 16, 6, 6)
    plain = block(x)
    put_gate(block, Recorder, {})
    assert type(block) is GatedConvBnAct
    assert torch.allclose(block(x), 2 * (plain - x) + x, atol=1e-6)
    put_gate(block, lambda channels, **_: nn.Identity(), {})
    assert torch.equal(block(x), plain)


@pytest.mark.parametrize("variant", ["b0", "b3", "v2_s", "cc_b0_4e", "v2_b0"])
def test_the_reduction_is_timms_everywhere(variant):
    """`se` built at our slots has timm's widths, block by block."""
    row = zoo.backbones.VARIANTS[variant]
    timms, ours = timm.create_model(row.base, device="meta"), timm.create_model(f"effnet_se_{variant}", attn_all=True, device="meta")
    found = {path: gate.conv_reduce.out_channels for path, _, gate in attention_slots(ours)}
    wanted = {path: module.conv_reduce.out_channels for path, module in timms.named_modules() if isinstance(module, SqueezeExcite)}
    assert wanted.items() <= found.items()
    for _, path, block in blocks(ours):
        first = next(module for module in block.modules() if hasattr(module, "in_channels"))
        assert found[path + ".se"] == round(0.25 * first.in_channels), path


def test_options_go_before_the_blocks_own():
    block = InvertedResidual(16, 16, exp_ratio=6, act_layer=nn.SiLU)
    put_gate(block, CBAM, {"rd_ratio": 0.5, "kernel_size": 3, "act_layer": "relu6"})
    assert block.se.channel.fc1.out_features == 48 and block.se.spatial.conv.kernel_size == (3, 3)
    assert isinstance(block.se.channel.act, nn.ReLU6)


def test_attention_slots_tells_path_name_and_gate():
    model = timm.create_model("effnet_eca_test", attn_stages={1: "cbam", 4: "none", 0: {"name": "se", "rd_ratio": 0.5}})
    slots = attention_slots(model)
    assert [(path, name) for path, name, _ in slots] == [
        ("blocks.0.0.se", "se"),
        ("blocks.1.0.se", "cbam"),
        ("blocks.2.0.se", "eca"),
        ("blocks.3.0.se", "eca"),
    ]
    assert [type(gate) for _, _, gate in slots] == [SE, CBAM, ECA, ECA]
    assert attention_slots(nn.Linear(1, 1)) == []
    timms = attention_slots(timm.create_model("test_efficientnet", device="meta"))
    assert [(path, name, type(gate)) for path, name, gate in timms] == [
        ("blocks.3.0.se", "se", SqueezeExcite),
        ("blocks.4.0.se", "se", SqueezeExcite),
    ]

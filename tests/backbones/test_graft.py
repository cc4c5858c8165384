"""One gate takes over from another: exact at both ends, by a share of each in between; the outermost hand-over counts."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

import zoo
from zoo.attention import CBAM, ECA, SE
from zoo.backbones.graft import HandOver, hand_overs
from zoo.backbones.slots import reader


class Times(nn.Module):
    """x times a number."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return x * self.factor


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_equation(share):
    gate = HandOver(Times(2.0), Times(7.0)).double()
    zoo.set_share(gate, share)
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    assert torch.allclose(gate(x), ((1 - share) * 2 + share * 7) * x, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_exact_at_both_ends(dtype):
    """Written as in the equation it is not: in bfloat16, 300 + 1 * (0.1 - 300) is 0."""
    gate, x = HandOver(Times(300.0), Times(0.1)).to(dtype), torch.randn(2, 8, 3, 3).to(dtype)
    old, new = gate.old(x), gate.new(x)
    assert not torch.equal(old + (new - old), new), "the control"
    assert torch.equal(gate(x), old)
    zoo.set_share(gate, 1.0)
    assert torch.equal(gate(x), new)


def test_gradients_are_shared_out():
    gate = HandOver(Times(2.0), Times(7.0))
    zoo.set_share(gate, 0.25)
    x = torch.randn(1, 8, 2, 2, requires_grad=True)
    gate(x).sum().backward()
    assert torch.allclose(gate.old.factor.grad, 0.75 * x.sum()) and torch.allclose(gate.new.factor.grad, 0.25 * x.sum())
    assert torch.allclose(x.grad, torch.full_like(x, 0.75 * 2 + 0.25 * 7))


def test_an_empty_place_passes_everything_on():
    gate, x = HandOver(nn.Identity(), SE(16, calm=True)), torch.randn(2, 16, 5, 5)
    assert torch.equal(gate(x), x)
    zoo.set_share(gate, 0.5)
    assert torch.allclose(gate(x), 0.75 * x), "half of x, and half of the calm gate's half of x"


def test_the_share_is_saved_and_is_not_trained():
    gate = HandOver(ECA(8), CBAM(8))
    zoo.set_share(gate, 0.375)
    assert gate.state_dict()["share"] == 0.375 and "share" not in dict(gate.named_parameters())
    other = HandOver(ECA(8), CBAM(8))
    other.load_state_dict(gate.state_dict())
    assert other.share == 0.375


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"])
def test_copies(copied):
    gate, x = HandOver(ECA(8), CBAM(8)).eval(), torch.randn(1, 8, 4, 4)
    zoo.set_share(gate, 0.5)
    other = copied(gate)
    assert torch.equal(other(x), gate(x))
    zoo.set_share(other, 1.0)
    assert gate.share == 0.5


def test_under_autocast_and_in_another_dtype():
    gate, x = HandOver(SE(16), ECA(16)), torch.randn(1, 16, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert gate(x).shape == x.shape
    assert gate.to(torch.bfloat16)(x.bfloat16()).dtype is torch.bfloat16


def test_channels_last_stays():
    x = torch.randn(2, 16, 5, 5).to(memory_format=torch.channels_last)
    assert HandOver(ECA(16), SE(16))(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # torch says so to everybody who scripts; timm's users do
def test_scripted_and_exported():
    gate, x = HandOver(SE(16), ECA(16)).eval(), torch.randn(1, 16, 4, 4)
    zoo.set_share(gate, 0.5)
    assert torch.allclose(torch.jit.script(gate)(x), gate(x)) and torch.allclose(torch.export.export(gate, (x,)).module()(x), gate(x))


def test_only_the_outermost_is_under_way():
    """What an earlier hand-over has come to is part of the old gate; it stays, or the network would jump when the next run begins."""
    inner = HandOver(Times(2.0), Times(4.0))
    zoo.set_share(inner, 0.5)
    outer, x = HandOver(inner, Times(9.0)), torch.ones(1, 8, 1, 1)
    assert [path for path, _ in hand_overs(nn.Sequential(outer, HandOver(Times(1.0), Times(1.0))))] == ["0", "1"]
    assert [module for _, module in hand_overs(outer)] == [outer]
    zoo.set_share(outer, 0.0)
    assert inner.share == 0.5 and (outer(x) == 3).all()


def test_the_gain_is_the_least_squares_fit():
    gate = HandOver(Times(3.0), Times(0.5), channels=8)
    with torch.no_grad():
        gate.old.factor = nn.Parameter(torch.linspace(0.5, 4, 8).view(1, 8, 1, 1))
    zoo.set_share(gate, 0.5)
    x = torch.randn(4, 8, 6, 6)
    assert torch.allclose(gate.eval()(x), (gate.old.factor + 0.5) / 2 * x), "not measured yet: the new gate as it is"
    assert torch.allclose(gate.train()(x), gate.old.factor * x, atol=1e-5)
    assert torch.allclose(gate.gain, gate.old.factor.flatten() / 0.5) and (gate.seen == 1).all()
    assert torch.allclose(gate.eval()(x), gate.old.factor * x, atol=1e-5) and (gate.seen == 1).all()


def test_the_gain_is_the_mean_of_the_first_batches_and_then_stays():
    gate = HandOver(Times(2.0), Times(1.0), channels=4)
    factors = torch.linspace(1, 3, 30)
    x = torch.randn(2, 4, 5, 5)
    for step, factor in enumerate(factors):
        gate.old.factor.data = factor
        zoo.set_share(gate, step / 100)
        gate(x)
    assert torch.allclose(gate.gain, factors[:16].mean().expand(4), rtol=1e-4)
    assert "gain" not in dict(gate.named_parameters())


def test_the_gain_stays_where_the_old_gate_says_nothing_any_more():
    gate = HandOver(Times(2.0), Times(1.0), channels=4)
    zoo.set_share(gate, 1.0)
    gate(torch.randn(2, 4, 5, 5))
    assert (gate.gain == 1).all()


def test_a_gate_does_not_run_away_from_its_gain():
    """A loss that wants silent channels gets them; with a gain that followed, the gate went on falling and was made up for."""
    torch.manual_seed(0)
    gate = HandOver(nn.Identity(), SE(8, calm=True), channels=8)
    optimizer = torch.optim.SGD(gate.parameters(), lr=5.0)
    for step in range(200):
        zoo.set_share(gate, min(step / 150, 0.99))
        loss = gate(torch.rand(4, 8, 4, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 and gate.gain.max() < 2.1


def test_a_dead_channel_keeps_its_gain():
    """Behind a ReLU a channel may be zero in all of a batch."""
    gate, x = HandOver(Times(3.0), Times(1.0), channels=4), torch.randn(2, 4, 5, 5)
    for _ in range(2):
        gate(x)
    x[:, 1] = 0
    for _ in range(3):
        gate(x)
    assert torch.allclose(gate.gain, torch.full((4,), 3.0)) and gate.seen.tolist() == [5, 2, 5, 5]


def test_a_channel_that_wakes_late_is_measured_from_then_on():
    gate, x = HandOver(Times(3.0), Times(1.0), channels=2), torch.randn(2, 2, 5, 5)
    quiet = x * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    for _ in range(20):
        gate(quiet)
    gate(x)
    assert torch.allclose(gate.gain, torch.full((2,), 3.0)) and gate.seen.tolist() == [16, 1]


def test_the_gain_goes_into_the_convolution_behind():
    torch.manual_seed(0)
    model = timm.create_model("effnet_se_test", num_classes=3, pretrained_cfg_overlay={"input_size": (3, 32, 32)})
    zoo.swap_attention(model, "cbam")
    x = torch.randn(4, 3, 32, 32)
    for share in (0.3, 1.0):
        zoo.set_share(model, share)
        model.train()(x)
    with torch.no_grad():
        before = model.eval()(x)
        report = zoo.finish_swap(model, x)
        after = model(x)
    assert torch.allclose(after, before, atol=1e-5) and report.difference[0] < 1e-5
    assert not any(key.endswith(("gain", "seen", "share")) for key in model.state_dict())


def test_a_gain_only_where_a_convolution_can_take_it():
    """What comes out of a ResNet's gate is added to the shortcut."""
    plain, mobile = timm.create_model("seresnet18"), timm.create_model("mobilenetv3_small_050")
    for model, has in ((plain, False), (mobile, True)):
        zoo.swap_attention(model, "eca" if has else "cbam")
        gates = [gate for _, gate in hand_overs(model)]
        assert gates and all((gate.gain is not None) is has for gate in gates)


def test_a_grouped_convolution_cannot_take_it():
    """Its weights are not laid out by the channel that it reads."""
    model = timm.create_model("effnet_se_test")
    assert reader(model, "blocks.4.0.se") is model.blocks[4][0].conv_pwl
    model.blocks[4][0].conv_pwl = nn.Conv2d(8, 8, 1, groups=2)
    assert reader(model, "blocks.4.0.se") is None


def test_all_of_a_network():
    model = timm.create_model("effnet_se_test", attn_all=True)
    zoo.swap_attention(model, "cbam")
    zoo.set_share(model, 0.25)
    assert [float(module.share) for _, module in hand_overs(model)] == [0.25] * 5
    assert [name for _, name, _ in zoo.attention_slots(model)] == ["se>cbam"] * 5

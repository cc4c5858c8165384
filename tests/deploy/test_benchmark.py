"""What a gate costs, beside timm's class: the numbers that can be known, and the shape of those that cannot."""

from types import SimpleNamespace

import pytest
import timm
import torch
from timm.layers import get_attn
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from registry import ATTENTION
from zoo.backbones import attention_slots
from zoo.deploy import bench_attention, benchmark
from zoo.deploy.benchmark import Place, as_trained, places, saved_bytes


def test_the_maps_are_those_of_timms_network():
    """Seen in a real forward pass of timm's EfficientNet-B0, whose bottlenecks say what the reduction is."""
    model = timm.create_model("efficientnet_b0").eval()
    seen = []
    for module in model.modules():
        if isinstance(module, SqueezeExcite):
            module.register_forward_pre_hook(lambda gate, args: seen.append((*args[0].shape[1:], gate.conv_reduce.out_channels)))
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    found = places(64)
    assert sum(found.values()) == len(seen) == 16
    assert sorted((each.channels, each.height, each.width, round(each.channels * each.rd_ratio)) for each in found.elements()) == sorted(
        seen
    )
    assert Place(1152, 7, 7, pytest.approx(1 / 24)) in list(places(224))


@pytest.mark.parametrize(
    "module, multiple",
    [
        (nn.Sigmoid(), 1.0),  # its output
        (nn.SiLU(), 1.0),  # its input
        (nn.Identity(), 0.0),
        (nn.Sequential(nn.SiLU(), nn.SiLU()), 2.0),
        (nn.Sequential(nn.Sigmoid(), nn.SiLU()), 1.0),  # the output of the one is the input of the other
        (nn.Conv2d(8, 8, 1), 1.0),  # its input; the weight is a parameter
    ],
)
def test_what_is_saved_by_a_known_module(module, multiple):
    x = torch.randn(2, 8, 16, 16)
    assert saved_bytes(module, x) == multiple * x.nbytes
    assert not x.requires_grad


def test_timms_cbam_saves_its_input_twice():
    x = torch.randn(4, 64, 32, 32)
    assert saved_bytes(get_attn("cbam")(64), x) / x.nbytes == pytest.approx(2, abs=0.15)


def test_trained_numbers_are_finite():
    for name in sorted(ATTENTION):
        gate = as_trained(ATTENTION[name](16, rd_ratio=0.25, act_layer=nn.SiLU)).eval()
        with torch.no_grad():
            y = gate(torch.randn(2, 16, 8, 8))
        assert y.isfinite().all(), name


def test_a_gate_beside_timms():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        rows = bench_attention(["se", "none"], [1], rounds=2, img_size=32)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    se, none = rows
    assert (se.gate, se.batch_size, se.slots, se.note) == ("se", 1, 16, "")
    assert se.timm is not None and se.forward is not None and se.train is not None
    for cost in (se.ours, se.timm):
        assert 0 < cost.forward < cost.train and cost.saved > 1
    assert all(0 < spread.low <= spread.median <= spread.high for spread in (se.forward, se.train))
    slots = attention_slots(timm.create_model("efficientnet_b0", device="meta"))
    assert se.ours.parameters == se.timm.parameters == sum(p.numel() for _, _, gate in slots for p in gate.parameters())
    assert se.copy_ms > 0
    assert none.timm is none.forward is none.train is None and none.ours.saved == 0 and none.ours.forward > 0


def test_what_timm_takes_thrice_as_long_for(monkeypatch):
    """By a clock that only the gates move: three slots of a millisecond, and timm's time by ours."""

    class Busy(nn.Module):
        seconds = 1.0e-3

        def __init__(self, *args, **kwargs):
            super().__init__()

        def forward(self, x):
            clock.now += self.seconds
            return x * 1

    class Slower(Busy):
        seconds = 3.0e-3

    def process_time():
        clock.now += 1e-9  # nothing takes no time
        return clock.now

    clock = SimpleNamespace(now=0.0, process_time=process_time)
    monkeypatch.setattr(benchmark, "time", clock)
    monkeypatch.setattr(benchmark, "ATTENTION", {"busy": Busy})
    monkeypatch.setattr(benchmark, "TIMMS", {"busy": Slower})
    monkeypatch.setattr(benchmark, "places", lambda img_size: {Place(8, 2, 2, 0.25): 3})
    (row,) = bench_attention(["busy"], [1], rounds=3)
    assert row.slots == 3 and row.forward is not None and row.train is not None
    assert row.forward.median == pytest.approx(3, rel=1e-3) and row.train.median == pytest.approx(3, rel=1e-3)
    assert row.ours.forward * row.copy_ms == pytest.approx(3, rel=1e-2)


def test_attention_between_all_pixels_is_for_small_maps(monkeypatch):
    monkeypatch.setattr(benchmark, "places", lambda img_size: {Place(8, 32, 32, 0.25): 1, Place(16, 4, 4, 0.25): 2})
    (row,) = bench_attention(["nl"], [1], rounds=1)
    assert row.slots == 2 and row.note == "maps up to 28 x 28 only, 2 of 3 slots"
    (row,) = bench_attention(["eca"], [1], rounds=1)
    assert row.slots == 3 and row.note == ""
    monkeypatch.setattr(benchmark, "places", lambda img_size: {Place(8, 32, 32, 0.25): 1})
    with pytest.raises(ValueError, match="nl is measured on maps of up to 28 x 28"):
        bench_attention(["nl"], [1], rounds=1)


@pytest.mark.parametrize("name", sorted(benchmark.TIMMS))
def test_timms_class_is_given_what_ours_is(name):
    built = benchmark._built(name, Place(240, 2, 2, 1 / 24), 1)
    assert type(built["ours"]) is ATTENTION[name] and type(built["timm"]).__module__.startswith("timm.")
    assert built["timm"](torch.randn(1, 240, 2, 2)).shape == (1, 240, 2, 2)
    if name in ("se", "gc", "gca"):  # as many numbers, which they would not have at another reduction
        ours, timms = (sum(parameter.numel() for parameter in built[whose].parameters()) for whose in ("ours", "timm"))
        assert ours == timms > 4800


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"rounds": 0}, "rounds: expected 1 or more, got 0"),
        ({"img_size": 0}, "img_size: expected 1 or more, got 0"),
        ({"batch_sizes": [0]}, "batch_size: expected 1 or more, got 0"),
    ],
)
def test_numbers_below_one(wrong, error):
    with pytest.raises(ValueError, match=error):
        bench_attention(["se"], **wrong)


def test_a_name_is_refused_before_anything_is_measured():
    with pytest.raises(KeyError, match="'cbam'"):
        bench_attention(["se", "cbma"])


def test_a_map_on_which_timms_class_cannot_train():
    with pytest.raises(ValueError, match="cbam: timm's class cannot train on a map of 1 x 672 x 1 x 1 .*take larger pictures"):
        bench_attention(["cbam"], [1], rounds=1, img_size=32)


@pytest.mark.parametrize("gate", ["cbam", "coord"])
def test_timms_class_is_as_wide_as_ours(gate):
    """At the network's reduction timm rounds otherwise, or has no biases; then two functions would be compared."""
    place = Place(channels=144, height=7, width=7, rd_ratio=1 / 24)
    ours, timms = (sum(each.numel() for each in module.parameters()) for module in benchmark._built(gate, place, 2).values())
    assert ours == timms


def test_the_first_call_is_not_timed(monkeypatch):
    calls = []
    monkeypatch.setattr(benchmark.time, "process_time", lambda: float(len(calls)))
    assert benchmark._seconds(lambda: calls.append(1), 4) == 1.0 and len(calls) == 5

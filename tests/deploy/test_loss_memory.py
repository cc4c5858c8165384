"""What a loss costs: memory that is known beforehand, and measured from outside of the process."""

import sys

import pytest
import torch

from registry import LOSSES
from zoo.deploy import LossCost, bench_loss, loss_memory
from zoo.losses import rows

linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc/self")
ASKED = {"width": 64, "threads": 1, "seed": 0}


def _touch(a, b, *, logit_scale, logit_bias):
    """A loss of no matrix but one that has as many numbers as there are pairs, 16 times: the memory is known."""
    return a.sum() + b.sum() + torch.ones(16 * len(a), len(a)).sum()


_touch.init_logit_scale = _touch.init_logit_bias = None


@linux
def test_a_known_amount(monkeypatch):
    """64 MiB for 1,024 rows, and not what the process had touched and given back before."""
    monkeypatch.setattr(loss_memory, "LOSSES", {"touch": _touch})
    torch.ones(1 << 27).sum()  # a peak of 512 MiB
    torch.ones(1 << 22).sum()  # once 16 MiB were freed, the allocator takes pieces of that size from its own
    kept = [torch.ones(1 << 18) for _ in range(256)]  # 256 MiB in pieces that the allocator keeps when they are freed
    last = torch.ones(1 << 18)
    del kept
    threads = torch.get_num_threads()
    try:
        cost = loss_memory.measure_here("touch", "ours", 1024, **ASKED)
    finally:
        torch.set_num_threads(threads)
    assert cost.mib == pytest.approx(64, abs=8) and cost.seconds > 0 and last.sum() == 1 << 18


@pytest.fixture
def here():
    """Measure in this process."""
    threads = torch.get_num_threads()
    yield lambda name, whose, rows: loss_memory.measure_here(name, whose, rows, **ASKED).mib
    torch.set_num_threads(threads)


@linux
@pytest.mark.parametrize("name", ["clip", "siglip", "dcl", "vsepp"])  # one of each way to go over the rows
def test_memory_is_that_of_a_few_rows(here, name, monkeypatch):
    """One matrix is 144 MiB, a chunk 36 MiB, and a loss needs several of either."""
    monkeypatch.setattr(rows, "_NUMBERS", 9 << 20)
    monkeypatch.setattr(rows, "WHOLE", 6144)
    whole = here(name, "ours", 6144)
    monkeypatch.setattr(rows, "WHOLE", 6143)
    assert here(name, "ours", 6144) < 360 < 640 < whole


@linux
@pytest.mark.parametrize("name", sorted(loss_memory.OPEN_CLIPS))
def test_the_estimate_of_open_clips_memory(name):
    """In a process of its own, as `zoo bench loss` has it: what this one has kept would be part of the answer."""
    cost = loss_memory._measure(name, "open_clip", rows=4096, **ASKED)
    assert cost.mib == pytest.approx(loss_memory.MATRICES[name] * 64, rel=0.15)


@pytest.mark.parametrize("name", sorted(loss_memory.OPEN_CLIPS))
def test_open_clips_loss_is_the_same_function(name):
    a, b = torch.nn.functional.normalize(torch.randn(2, 9, 16), dim=-1)
    bias = None if LOSSES[name].init_logit_bias is None else torch.tensor([-2.0])
    given = {"logit_scale": torch.tensor([5.0]), "logit_bias": bias}
    torch.testing.assert_close(loss_memory._open_clip(name)(a, b, **given), LOSSES[name](a, b, **given))


@linux
def test_losses_beside_open_clips(monkeypatch):
    """In order; who is not measured, and why."""
    asked = []
    monkeypatch.setattr(
        loss_memory, "_measure", lambda name, whose, **rest: asked.append((name, whose, rest["rows"])) or LossCost(1.0, 2.0)
    )
    monkeypatch.setattr(loss_memory, "_available_gib", lambda: 10.0)
    found = bench_loss(["barlow", "clip"], [4096, 32768])
    assert [(row.loss, row.rows, row.open_clip is not None) for row in found] == [
        *(("barlow", 4096, False), ("barlow", 32768, False)),
        *(("clip", 4096, True), ("clip", 32768, False)),
    ]
    assert [row.note for row in found] == [
        *["open_clip has no such loss"] * 2,
        *("", "open_clip's ClipLoss would take about 17 GiB, more than 80% of the 10 available"),
    ]
    assert asked == [
        *(("barlow", "ours", 4096), ("barlow", "ours", 32768)),
        *(("clip", "ours", 4096), ("clip", "open_clip", 4096), ("clip", "ours", 32768)),
    ]


def test_without_open_clip(monkeypatch):
    monkeypatch.setattr(loss_memory, "find_spec", lambda name: None)
    assert loss_memory._left_out("clip", 8) == "open_clip is not installed: pip install 'effnet-zoo[open_clip]'"
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match="pip install 'effnet-zoo\\[open_clip\\]'"):
        loss_memory._open_clip("clip")


@linux
def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="measuring ours clip at 8 rows failed: .*negative dimension"):
        loss_memory._measure("clip", "ours", rows=8, width=-1, threads=1, seed=0)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"threads": 0}, {"rows": [0]}])
def test_numbers_below_one(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected 1 or more, got 0"):
        bench_loss(["clip"], **wrong)


def test_an_unknown_loss_and_another_system(monkeypatch):
    with pytest.raises(KeyError, match="did you mean 'vsepp'"):
        bench_loss(["vsep"])
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="measured on Linux only.*this is darwin"):
        bench_loss(["clip"])

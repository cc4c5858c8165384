"""Networks side by side: the numbers by a clock that only the work moves, the order, and what becomes of a cell that fails."""

import json
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from zoo.deploy import network_speed, ways
from zoo.deploy.network_speed import Candidate, Worth, bench_networks, notes, percentile, summary, take_turns
from zoo.deploy.runtimes import RUNTIMES
from zoo.deploy.ways import FILES, USUAL, Written, way_of

KEY = ("a", "eager", 2)
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}


def candidate(name="net", network=None, **known):
    return Candidate(name, (3, 16, 16), network or nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()), **known)


def call(wall, processor=None):
    return network_speed._Call(wall, wall if processor is None else processor)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass where a test says so, on both clocks; processor time half as fast."""
    found = SimpleNamespace(now=0.0)
    found.perf_counter = lambda: found.now
    found.process_time = lambda: found.now / 2
    monkeypatch.setattr(network_speed, "time", found)
    return found


def test_percentiles():
    values = [float(each) for each in range(1, 101)]
    np.random.default_rng(0).shuffle(values)
    assert [percentile(values, each) for each in (1, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0 and percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.0
    for count in (1, 2, 7, 40):
        some = list(np.random.default_rng(count).random(count))
        for percent in (50, 95, 99):
            assert percentile(some, percent) == np.percentile(some, percent, method="inverted_cdf")


def test_the_numbers_of_a_cell():
    rounds = [[call(0.010), call(0.020), call(0.030)], [call(0.040), call(0.040), call(0.040)]]
    eager = [[call(0.060), call(0.060, 0.080)], [call(0.120), call(0.120)]]
    cell = summary(KEY, candidate("a", worth=Worth("top1", 97.5, "digits")), 1000, rounds, eager)
    assert (cell.network, cell.runtime, cell.batch_size, cell.pixels, cell.bytes, cell.calls) == ("a", "eager", 2, 16, 1000, 6)
    assert (cell.p50, cell.p95, cell.p99) == pytest.approx((30, 40, 40))
    assert cell.rounds == pytest.approx((20, 40)) and cell.latency.median == pytest.approx(30)
    assert cell.images_per_second.median == pytest.approx((2 * 3 / 0.06 + 2 * 3 / 0.12) / 2)
    assert cell.faster.median == pytest.approx(3) and cell.faster.low == pytest.approx(3), "within a round, never between rounds"
    assert cell.faster_processor.high == pytest.approx(3.375)
    assert cell.worth.value == 97.5
    assert summary(KEY, candidate(), 1, rounds, None).faster is None


def test_accuracy_is_of_the_bits_it_was_measured_in():
    known = candidate(worth=Worth("top1", 97.5, "digits"))
    of = lambda runtime, each: summary(("a", runtime, 1), each, 1, [[call(0.1)]], None).worth  # noqa: E731
    assert of("openvino", known) and of("openvino-bf16", known) is None
    file = Candidate("q", (3, 16, 16), Written("openvino", None, {"precision": "bf16"}), worth=known.worth)
    assert of("openvino-bf16", file) == known.worth


def test_everybody_takes_turns(clock):
    said = []
    seconds = {("a", "x", 1): 0.05, ("a", "x", 16): 0.5, ("b", "x", 1): 0.0001}

    def work(key):
        def run():
            said.append(key)
            clock.now += seconds[key]

        return run

    steps = []
    found = take_turns({key: work(key) for key in seconds}, 3, lambda *given: pytest.fail(str(given)), steps.append)
    calls = {key: [len(each) for each in rounds] for key, rounds in found.items()}
    assert calls == {("a", "x", 1): [4] * 3, ("a", "x", 16): [1] * 3, ("b", "x", 1): [network_speed.MOST_CALLS] * 3}
    order = [key for number, key in enumerate(said) if not number or said[number - 1] != key]
    places = "".join(str(list(seconds).index(key)) for key in order)
    assert places == "012" + "10" + "12" + "10", "012 to warm up, then 210, 012, 210: who was last comes first"
    assert len(steps) == 12
    assert said.count(("a", "x", 1)) == 2 + 3 * 5, "a call that is not timed opens every turn"
    assert all(each.wall == pytest.approx(0.05) and each.processor == pytest.approx(0.025) for each in found["a", "x", 1][0])


def test_a_cell_that_fails_does_not_end_the_run(clock):
    failures = []
    left = {"b": 7}  # calls until it breaks: in its second round

    def work(name):
        def run():
            clock.now += 0.2
            if name in left:
                left[name] -= 1
                if left[name] < 0:
                    raise RuntimeError("out of luck")

        return run

    def never():
        raise MemoryError("too large")

    works = {("a", "x", 1): work("a"), ("b", "x", 1): work("b"), ("c", "x", 1): never}
    found = take_turns(works, 5, lambda key, error: failures.append((key[0], str(error))), lambda note: None)
    assert failures == [("c", "too large"), ("b", "out of luck")]
    assert list(found) == [("a", "x", 1)] and len(found["a", "x", 1]) == 5


def test_what_disturbed_the_numbers():
    quiet, waiting, greedy = [[call(1.0, 0.99)]], [[call(1.0, 0.5), call(0.1, 0.1)]], [[call(1.0, 1.9)]]
    assert list(notes({KEY: quiet}, 1)) == []
    assert list(notes({KEY: waiting}, 1)) == [
        "The machine was busy: what takes the processor 1 s took 1.8 s. Measure again when it is quiet."
    ]
    (said,) = notes({("a", "executorch", 1): greedy}, 1)
    assert said.startswith("executorch took the time of 1.9 processors although 1 was asked for")
    assert list(notes({("a", "executorch", 1): greedy}, 2)) == list(notes({KEY: waiting}, 2)) == []


def test_every_runtime_that_is_there(monkeypatch):
    monkeypatch.setattr(network_speed, "TURN_SECONDS", 0.0)
    for name, libraries in LIBRARIES.items():
        for library in libraries:
            pytest.importorskip(library, reason=f"pip install 'effnet-zoo[{name}]'")
    network = nn.Sequential(nn.Conv2d(3, 96, 3), nn.BatchNorm2d(96), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 5))
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    asked = [*(way for way in USUAL if way != "executorch"), "torch-export", "torchscript"]  # see below
    found = bench_networks([candidate("net", network, parameters=5, macs=7)], [1, 2], runtimes=asked, rounds=2)
    assert found.left_out == ()
    assert [(cell.runtime, cell.batch_size) for cell in found.cells] == [(way, size) for way in asked for size in (1, 2)]
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    for cell in found.cells:
        assert 0 < cell.p50 <= cell.p95 <= cell.p99 and cell.calls >= 2 and len(cell.rounds) == 2 and cell.bytes > 10_000
        assert cell.images_per_second.median > 0 and cell.faster.median > 0 and (cell.parameters, cell.macs) == (5, 7)
    assert all(cell.faster.median == 1 for cell in found.cells if cell.runtime == "eager")
    assert json.loads(json.dumps(asdict(found)))["cells"][0]["latency"].keys() == {"low", "median", "high"}


def test_the_threads_of_executorch_are_set_once(monkeypatch):
    """It has one pool for the process, and what is open holds it; all the others are told each time."""
    asked = []

    def stub(name, suffix):
        def write(network, example, path):
            assert example.shape == (2, 3, 16, 16)
            path.write_bytes(b"1234")

        def open(path, *, threads, **options):
            asked.append((name, threads, options))
            return lambda x: x

        return SimpleNamespace(SUFFIX=suffix, write=write, ALSO=(), open=open)

    stubs = {"executorch": stub("executorch", ".pte"), "openvino": stub("openvino", ".xml")}
    monkeypatch.setattr(ways, "RUNTIMES", stubs)
    found = bench_networks([candidate("a"), candidate("b")], [1, 4], runtimes=["executorch", "openvino-bf16"], threads=3, rounds=1)
    assert [threads for name, threads, _ in asked if name == "executorch"] == [3, None, None, None]
    told = [each[1:] for each in asked if each[0] == "openvino"]
    assert told == [(3, {"precision": "bf16", "shape": (size, 3, 16, 16)}) for _ in "ab" for size in (1, 4)]
    assert {cell.bytes for cell in found.cells} == {4}


def test_a_file_is_run_by_its_own_runtime(tmp_path):
    network = candidate().network
    RUNTIMES["torchscript"].write(network, torch.randn(2, 3, 16, 16), tmp_path / "model.ts")
    written = Written("torchscript", tmp_path / "model.ts", {})
    found = bench_networks([candidate(), candidate("file", written)], [1], runtimes=["eager"], rounds=1)
    assert [(cell.network, cell.runtime) for cell in found.cells] == [("net", "eager"), ("file", "torchscript")]
    assert found.cells[1].bytes == (tmp_path / "model.ts").stat().st_size and found.cells[1].faster is None
    assert all(way_of(Written(runtime, tmp_path, options)) == way for way, (runtime, options) in FILES.items())


def test_a_network_that_one_runtime_does_not_take():
    class Moody(nn.Module):
        def forward(self, x):
            if x.shape[0] > 1:
                raise RuntimeError("one picture at a time")
            return x.mean((2, 3))

    found = bench_networks([candidate("moody", Moody()), candidate()], [1, 3], runtimes=["eager", "torch-export"], rounds=1)
    assert [(cell.network, cell.runtime, cell.batch_size) for cell in found.cells] == [
        *(("moody", "eager", 1), ("net", "eager", 1), ("net", "eager", 3)),
        *(("net", "torch-export", 1), ("net", "torch-export", 3)),
    ]
    by = {(each.network, each.runtime): each.reason for each in found.left_out}
    assert by.keys() == {("moody", "eager"), ("moody", "torch-export")}
    assert by["moody", "eager"] == "batch 3: one picture at a time" and "one picture at a time" in by["moody", "torch-export"]


def test_a_missing_package_is_named_once(monkeypatch):
    for module in [each for each in sys.modules if each.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = bench_networks([candidate("a"), candidate("b")], [1, 2], runtimes=["eager", "openvino"], rounds=1)
    (out,) = found.left_out
    assert (out.network, out.runtime) == ("", "openvino") and "pip install 'effnet-zoo[openvino]'" in out.reason
    assert len(found.cells) == 4


def test_compiled_where_a_compiler_is(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda network, **options: asked.append(options) or network)
    found = bench_networks([candidate()], [1, 2], runtimes=["compiled"], rounds=1)
    assert [cell.runtime for cell in found.cells] == ["compiled"] * 2 and "compiled" not in USUAL
    assert asked == [{"dynamic": False, "fullgraph": True}] * 2

    def none(network, **options):
        def run(x):
            raise RuntimeError("InvalidCxxCompiler: no compiler was found")

        return run

    monkeypatch.setattr(torch, "compile", none)
    found = bench_networks([candidate()], [1], runtimes=["compiled", "eager"], rounds=1)
    assert [cell.runtime for cell in found.cells] == ["eager"] and "no compiler was found" in found.left_out[0].reason


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"rounds": 0}, "rounds: expected 1 or more, got 0"),
        ({"batch_sizes": [0]}, "batch_size: expected 1 or more, got 0"),
        ({"threads": 0}, "threads: expected 1 or more, got 0"),
        ({"runtimes": ["onxx"]}, "unknown runtime 'onxx'; did you mean 'onnx'"),
        ({"candidates": []}, "no networks"),
        ({"candidates": [candidate(), candidate()]}, "net: each network once"),
    ],
)
def test_mistakes(wrong, error):
    with pytest.raises(ValueError, match=error):
        bench_networks(**{"candidates": [candidate()], **wrong})

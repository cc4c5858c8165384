"""zoo bench NAME_OR_RUN...: the default of `zoo bench`, its tables, its JSON, its picture and its last line."""

import importlib
import json
import shutil

import pytest
from PIL import Image

from zoo.deploy import Spread
from zoo.deploy.network_speed import Cell, LeftOut, NetworksMeasured, Worth

bench_networks = importlib.import_module("zoo.cli.bench_networks")

QUICK = ("--runtime", "eager", "--runtime", "torchscript", "--rounds", "1", "--img-size", "32")


def cell(network, runtime, ms, top1=None, *, batch_size=1, data="digits", **other):
    worth = None if top1 is None else Worth("top1", top1, data)
    each = Spread(ms, ms, ms)
    known = dict(pixels=32, bytes=2_000_000, parameters=5_000_000, macs=390_000_000, calls=9, faster=None, faster_processor=None)
    known |= dict(p50=ms, p95=2 * ms, p99=3 * ms, latency=each, processor=each, rounds=(ms,), rounds_processor=(ms,))
    return Cell(network, runtime, batch_size, worth=worth, images_per_second=Spread(*[1e3 * batch_size / ms] * 3), **{**known, **other})


@pytest.fixture
def measured(monkeypatch):
    """measured(cells, ...): what is measured instead of anything; returns the list of what was asked for."""

    def set_to(cells, left_out=(), notes=()):
        asked = []
        found = NetworksMeasured(tuple(cells), tuple(left_out), tuple(notes), True)
        monkeypatch.setattr(
            bench_networks, "bench_networks", lambda candidates, sizes, **given: asked.append((candidates, sizes, given)) or found
        )
        monkeypatch.setattr(bench_networks.console, "_width", 160)
        return asked

    return set_to


def rows(said, start):
    return [[part.strip() for part in line.strip("│").split("│")] for line in said.out.splitlines() if line.startswith(f"│ {start}")]


def test_json(zoo, classifier, tmp_path):
    out = tmp_path / "front.png"
    said = zoo("bench", "effnet_se_test", classifier, *QUICK, "--batch-size", "2", "--out", out, "--json")
    assert said.code == 0 and not said.err
    told = said.json
    assert told["command"].startswith(f"zoo bench effnet_se_test {classifier} --batch-size 2 --runtime eager --runtime torchscript ")
    assert told["command"].endswith("--threads 1 --rounds 1 --seed 0 --img-size 32 --json")
    assert {"effnet-zoo", "torch", "timm", "python"} <= set(told["versions"]) and told["cpu"] and told["threads"] == 1
    assert [(each["network"], each["runtime"]) for each in told["cells"]] == [
        (name, runtime) for name in ("effnet_se_test", str(classifier)) for runtime in ("eager", "torchscript")
    ]
    for each in told["cells"]:
        assert each["pixels"] == 32 and each["batch_size"] == 2 and each["macs"] > 1e5 and each["parameters"] > 5e4 and each["bytes"] > 1e5
        assert 0 < each["p50"] <= each["p95"] <= each["p99"] and each["calls"] >= 1 and len(each["rounds"]) == 1
        assert each["faster"].keys() == each["latency"].keys() == {"low", "median", "high"}
    top1 = json.loads((classifier / "metrics.jsonl").read_text().splitlines()[-1])["top1"]
    assert [each["worth"] and each["worth"]["value"] for each in told["cells"]] == [None, None, top1, top1]
    (front,) = told["fronts"]
    assert front["batch_size"] == 2 and front["metric"] == "top1" and front["data"].endswith("manifest.csv")
    assert front["take"] in front["front"] and front["take"]["network"] == str(classifier) and front["take"]["accuracy"] == top1
    assert told["take"].startswith(f"On this machine take {classifier} (") and told["left_out"] == []
    with Image.open(out) as picture:
        assert picture.width > 500


def test_tables(zoo, measured):
    asked = measured(
        [
            cell("effnet_se_test", "eager", 20.0, faster=Spread(1, 1, 1)),
            cell("runs/a", "eager", 12.345, 97.0),
            cell("runs/a", "openvino", 4.0, 97.0, faster=Spread(2.5, 3, 3.25)),
            cell("runs/a", "openvino-bf16", 2.0),
            cell("runs/b", "onnx", 3.0, 96.6),
            cell("runs/c", "onnx", 1.0, 90.0),
            cell("runs/d", "onnx", 5.0, 96.9),
        ],
        [LeftOut("", "executorch", "pip install it"), LeftOut("runs/d", "openvino", "batch 1: broken")],
        ["The machine was busy."],
    )
    said = zoo("bench", "effnet_se_test", "--batch-size", "1", "--threads", "2", "--system-memory")
    assert said.code == 0 and not said.err
    ((candidates, sizes, given),) = asked
    assert [each.name for each in candidates] == ["effnet_se_test"] and sizes == [1]
    assert given["threads"] == 2 and given["keep_memory"] is False and given["runtimes"] == list(bench_networks.USUAL)
    network, eager, openvino, half, front = rows(said, "runs/a")
    assert network == ["runs/a", "32", "5.00", "390.00", "top1 97.0 on digits"]
    assert eager == ["runs/a", "eager", "2.0", "12.3 (12.3-12.3)", "24.7", "37", "81", ""]
    assert openvino == ["runs/a", "openvino", "2.0", "4 (4-4)", "8", "12", "250", "3 (2.5-3.25)"]
    assert front == ["runs/a", "openvino", "4", "97.0", ""]
    assert rows(said, "effnet_se_test")[0][-1] == "not measured"
    assert rows(said, "runs/b")[-1] == ["runs/b", "onnx", "3", "96.6", "*"] and len(rows(said, "runs/d")) == 2, "d is beaten by a"
    lines = said.out.splitlines()
    assert "left out: executorch: pip install it" in lines and "left out: runs/d in openvino: batch 1: broken" in lines
    assert "The machine was busy." in lines
    assert any(line.startswith("openvino-bf16 of runs/a: its accuracy was not measured") for line in lines)
    assert lines[-1] == "On this machine take runs/b (onnx): 3 ms, top1 96.6. It is the fastest within 0.5 points of the best."


def test_a_line_for_each_batch_size_and_data(zoo, measured):
    sides = [
        cell("runs/a", "onnx", 1.0, 97.0),
        cell("runs/a", "onnx", 30.0, 97.0, batch_size=16),
        cell("runs/b", "onnx", 9.0, 50, data="x"),
    ]
    measured(sides)
    assert (
        zoo("bench", "effnet_se_test")
        .out.splitlines()[-1]
        .startswith(
            "On this machine take runs/a (onnx): 1 ms, top1 97.0 on digits; at batch 16 runs/a (onnx): 30 ms, top1 97.0 on digits; "
            "runs/b (onnx): 9 ms, top1 50.0 on x."
        )
    )


def test_without_accuracy_nothing_is_recommended(zoo, measured, tmp_path):
    measured([cell("a", "onnx", 3.0), cell("b", "onnx", 2.0), cell("b", "onnx", 20.0, batch_size=16)])
    said = zoo("bench", "effnet_se_test", "--out", tmp_path / "macs.svg")
    last = said.out.splitlines()[-1]
    assert last.startswith("The fastest on this machine is b (onnx): 2 ms; at batch 16 b (onnx): 20 ms. No accuracy is known")
    assert "million multiplications" in (tmp_path / "macs.svg").read_text() and "nothing is faster" not in said.out


def test_peers(zoo, measured, monkeypatch):
    asked = measured([cell("a", "onnx", 3.0)])
    monkeypatch.setattr(bench_networks, "peers", lambda size: [f"peer at {size}"])
    assert zoo("bench", "--peers", "--img-size", "64").code == 0, "an option may come first"
    assert zoo("bench", "effnet_se_test", "--peers", "--json").json["command"].startswith("zoo bench effnet_se_test --peers ")
    assert asked[0][0] == ["peer at 64"] and asked[1][0][1:] == ["peer at None"]


def test_a_command_is_not_a_network(zoo, measured, tmp_path, monkeypatch):
    asked = measured([cell("a", "onnx", 3.0)])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loss").mkdir()
    said = zoo("bench", "loss", "--help")
    assert said.code == 0 and "--rows" in said.out and not asked
    assert "--batch-size" in zoo("bench", "effnet_se_test", "--help").out
    assert zoo("bench", "networks", "effnet_se_test", "effnet_eca_test").code == 0
    assert [each.name for each in asked[0][0]] == ["effnet_se_test", "effnet_eca_test"]
    group = zoo("bench", "--help").out
    assert all(name in group for name in ("attention", "loss", "train", "networks", "effnet_cbam_b0"))


def test_the_same_run_twice_is_one(zoo, measured, classifier):
    asked = measured([cell("a", "onnx", 3.0)])
    assert zoo("bench", classifier, f"{classifier}/", "effnet_se_test", "effnet_se_test").code == 0
    assert [each.name for each in asked[0][0]] == [str(classifier), "effnet_se_test"]


def test_a_cell_that_fails_is_named(zoo, classifier, tmp_path):
    """A file of a runtime that cannot read it, beside a network."""
    broken = tmp_path / "ts"
    assert zoo("export", classifier, "--to", "torchscript", "--out", broken).code == 0
    said = zoo("bench", "effnet_se_test", broken, *QUICK, "--json")
    assert [each["network"] for each in said.json["cells"]] == ["effnet_se_test"] * 4 + [str(broken)] * 2
    config = json.loads((broken / "config.json").read_text())
    (broken / "model.ts").write_bytes(b"x" * 100)
    from zoo.train.manifest import record

    config["runtime"]["files"]["model.ts"] = record(b"x" * 100)
    (broken / "config.json").write_text(json.dumps(config))
    said = zoo("bench", "effnet_se_test", broken, *QUICK, "--json")
    assert [each["network"] for each in said.json["cells"]] == ["effnet_se_test"] * 4
    (out,) = said.json["left_out"]
    assert (out["network"], out["runtime"]) == (str(broken), "torchscript") and out["reason"]


def test_mistakes(mistake, classifier, measured, tmp_path):
    assert "expected networks or run directories" in mistake("bench", "--json")
    assert "did you mean 'effnet_cbam_b0'" in mistake("bench", "effnet_cbma_b0")
    assert "did you mean 'effnet_cbam_b0'" in mistake("bench", "effnet_se_b0", "effnet_cbma_b0")
    assert "no such run directory" in mistake("bench", "runs/none")
    assert "unknown runtime 'onxx'; did you mean 'onnx'" in mistake("bench", "effnet_se_test", "--runtime", "onxx")
    asked = measured([])
    assert "expected a picture such as front.png" in mistake("bench", "effnet_se_test", "--out", tmp_path / "front.txt")
    assert not asked, "before anything is measured"
    measured([], [LeftOut("", "onnx", "pip install 'effnet-zoo[onnx]'")])
    assert "nothing could be measured: left out: onnx: pip install 'effnet-zoo[onnx]'" in mistake("bench", "effnet_se_test")
    shutil.copytree(classifier, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"no")
    assert "does not load" in mistake("bench", tmp_path / "run")

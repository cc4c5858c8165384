"""zoo quantize: a run as int8 files that zoo eval reads, a card of what it cost, and every wrong use refused in a line."""

import json
import shutil
import sys

import pytest
import torch

import zoo as library
from zoo.cli import quantize as verb
from zoo.cli.app import run as command

ONNX = pytest.importorskip("onnxruntime", reason="pip install 'effnet-zoo[onnx]'") and "onnx-int8"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run that has learned something; not to be written into."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert command(["train", "effnet_se_test", "--data", "digits", "--out", str(out), "--epochs", "2", "--batch-size", "16"]) == 0
    return out


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_eval_reads_and_its_card(zoo, digits, tmp_path):
    out = tmp_path / "small"
    said = zoo("quantize", digits, "--to", ONNX, "--out", out, "--calibration-rows", 64)
    assert said.code == 0, said.err
    assert files(out) == ["README.md", "card.json", "card.md", "config.json", "model.onnx"]
    assert said.out.splitlines()[0].split()[0] == "layer" and "held-out rows is" in said.out
    assert "warning: int8 pays less here: between 18 layers stand 11 smooth activations and 2 gates" in said.err
    assert "--to openvino-bf16 pays" in said.err and "top1 " in said.err
    assert (out / "card.md").read_text().startswith("# small\n")
    card = json.loads((out / "card.json").read_text())
    assert card["made"]["from"] == str(digits) and card["made"]["to"] == ONNX and "pays less" in card["warning"]
    before, after = card["before"], card["after"]
    assert after["top1"] >= before["top1"] - 1.5 > 80 and before["macs"] == after["macs"] > 0
    assert after["bytes"] == (out / "model.onnx").stat().st_size < 0.45 * before["bytes"]
    layers = card["sensitivity"]["image"]["layers"]
    assert len(layers) == 18 and {"name", "sqnr", "kept"} == set(layers[0]) and "| conv_stem |" in (out / "card.md").read_text()
    measured = zoo("eval", out, "--json").json
    assert measured["top1"] == after["top1"] and zoo("eval", digits, "--json").json["top1"] == before["top1"]
    config = json.loads((out / "config.json").read_text())
    assert config["runtime"]["name"] == "onnx" and config["zoo"]["quantized"] == {"from": str(digits), "to": ONNX}
    assert list(library.load_exported(out)(library.open_data("digits").eval[0]["image"]))[0]


def test_as_json_and_the_same_again(zoo, mistake, digits, tmp_path):
    arguments = ("quantize", digits, "--to", ONNX, "--out", tmp_path / "out", "--calibration-rows", 16, "--json")
    first = zoo(*arguments)
    assert first.code == 0 and first.json["folder"] == str(tmp_path / "out") and first.json["after"]["top1"] > 50
    before = (tmp_path / "out" / "model.onnx").read_bytes()
    assert "already holds an export; replace it (--overwrite)" in mistake(*arguments)
    assert zoo(*arguments, "--overwrite").json == first.json
    assert (tmp_path / "out" / "model.onnx").read_bytes() == before  # calibrated on the same rows


def test_layers_that_are_named_stay_in_float(zoo, mistake, digits, tmp_path):
    def made(keep):
        said = zoo(
            "quantize", digits, "--to", ONNX, "--out", tmp_path / "out", "--calibration-rows", 16, "--keep", keep, "--overwrite", "--json"
        )
        assert said.code == 0, said.err
        assert said.json["sensitivity"]["image"]["layers"] == []  # nothing was searched
        return said.json

    none, large = made("none"), made("conv_head,blocks.4.0.conv_pwl")
    assert none["made"]["keep"] == [] and large["made"]["keep"] == ["conv_head", "blocks.4.0.conv_pwl"]
    network = library.load_run(digits).task.trainable_module
    weights = sum(network.get_submodule(name).weight.numel() for name in large["made"]["keep"])
    assert large["after"]["bytes"] - none["after"]["bytes"] == pytest.approx(3 * weights, rel=0.1)  # float32 in place of bytes
    assert "there is no layer 'conv_haed' that could be in int8; did you mean 'conv_head'" in mistake(
        "quantize", digits, "--to", ONNX, "--out", tmp_path / "other", "--keep", "conv_haed"
    )
    assert "torchao-int8 can keep no layer in float" in mistake(
        "quantize", digits, "--to", "torchao-int8", "--out", tmp_path / "other", "--keep", "conv_head"
    )


def test_bfloat16_opens_as_such(zoo, digits, tmp_path):
    pytest.importorskip("openvino", reason="pip install 'effnet-zoo[openvino]'")
    out = tmp_path / "half"
    said = zoo("quantize", digits, "--to", "openvino-bf16", "--out", out, "--calibration-rows", 16, "--json")
    assert said.code == 0 and json.loads((out / "config.json").read_text())["runtime"]["options"] == {"precision": "bf16"}
    assert "warning" not in said.json and said.json["sensitivity"]["image"]["layers"] == []
    assert zoo("eval", out, "--json").json["top1"] == said.json["after"]["top1"] == pytest.approx(said.json["before"]["top1"], abs=0.6)


def test_trained_for_its_rounding(zoo, mistake, digits, tmp_path):
    out = tmp_path / "out"
    arguments = ("quantize", digits, "--to", ONNX, "--out", out, "--calibration-rows", 16, "--qat-epochs", 1)
    said = zoo(*arguments, "--json")
    assert said.code == 0, said.err
    settings = library.load_run(tmp_path / "out-qat").settings
    assert settings["quantization_aware"] and settings["teacher"] == str(digits) and settings["epochs"] == 1
    assert settings["lr"] == pytest.approx(2e-4) and settings["quantization"] == {"from": str(digits)}
    assert json.loads((out / "config.json").read_text())["runtime"]["run"] == str(tmp_path / "out-qat")
    assert said.json["after"]["top1"] > said.json["before"]["top1"] - 1.5
    shutil.rmtree(out)
    assert "where the fine-tuned run goes, holds a run: resume it (--resume)" in mistake(*arguments)
    again = zoo(*arguments, "--resume", "--json")
    assert again.code == 0 and "is already trained" in " ".join(again.err.split()) and again.json["after"] == said.json["after"]


def test_the_edge_variant(zoo, mistake, digits, tmp_path):
    out = tmp_path / "out"
    said = zoo("quantize", digits, "--to", ONNX, "--out", out, "--calibration-rows", 16, "--edge", "--finetune-epochs", 1, "--json")
    assert said.code == 0 and "pays less" not in said.err and "warning" not in said.json
    edge = library.load_run(tmp_path / "out-edge")
    assert [name for _, name, _ in library.attention_slots(edge.task.trainable_module)] == []
    assert verb.obstacles(edge.task.trainable_module, torch.randn(1, 3, 32, 32)).smooth == 0
    assert edge.settings["teacher"] == str(digits) and said.json["after"]["macs"] < said.json["before"]["macs"]
    plain = ("quantize", tmp_path / "out-edge", "--to", ONNX, "--out", tmp_path / "again")
    assert "has no gates and no smooth activations" in mistake(*plain, "--edge", "--calibration-rows", 16)
    assert not (tmp_path / "again").exists() and not (tmp_path / "again-edge").exists()


def test_the_image_tower_of_a_joint_run(zoo, joint, tmp_path):
    out = tmp_path / "out"
    said = zoo("quantize", joint, "--to", ONNX, "--out", out, "--calibration-rows", 8, "--json")
    assert said.code == 0, said.err
    assert {"image.onnx", "text.onnx", "tokenizer.text.json"} <= set(files(out))
    assert list(said.json["sensitivity"]) == ["image"] and said.json["sensitivity"]["image"]["agree"] is None
    assert zoo("eval", out, "--json").code == 0


def test_wrong_uses_are_refused_and_nothing_is_written(mistake, classifier, tmp_path, disk):
    out = tmp_path / "out"

    def refused(*arguments, run=classifier, to=ONNX):
        told = mistake("quantize", run, "--to", to, "--out", out, *arguments)
        assert not out.exists() and not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".writing*"))
        return told

    assert "to: expected onnx-int8, " in refused(to="onnx-int4") and "did you mean 'onnx-int8'" in refused(to="onnx-int4")
    assert "no such directory" in refused(run=tmp_path / "nothing")
    assert "calibration_rows: expected at least 2" in refused("--calibration-rows", 1)
    assert "has other classes than the run: expected 2 (bright, dark), got 10" in refused("--data", "digits")
    assert "finetune_epochs: it is the edge variant" in refused("--finetune-epochs", 2)
    assert "resume: it is a fine-tuning that goes on" in refused("--resume")
    empty = tmp_path / "empty.csv"
    head, *lines = disk.manifest.read_text().splitlines()
    empty.write_text("\n".join([head, *(f"{disk.manifest.parent}/{line}" for line in lines if line.endswith("eval"))]))
    assert "train" in refused("--data", empty)


def test_an_exported_network_and_an_occupied_folder(zoo, mistake, classifier, tmp_path):
    exported = tmp_path / "exported"
    assert zoo("export", classifier, "--to", "onnx", "--out", exported).code == 0
    told = mistake("quantize", exported, "--to", ONNX, "--out", tmp_path / "out")
    assert f"is an exported network (onnx), and stays as it is: take {classifier} instead" in told
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert "holds other things" in mistake("quantize", classifier, "--to", ONNX, "--out", tmp_path / "mine", "--overwrite")
    assert "holds other things" in mistake("quantize", classifier, "--to", ONNX, "--out", classifier, "--overwrite")
    (tmp_path / "new-qat").mkdir()
    (tmp_path / "new-qat" / "thesis.txt").write_text("mine")
    assert "is not empty and holds no run" in mistake(
        "quantize", classifier, "--to", ONNX, "--out", tmp_path / "new", "--qat-epochs", 1, "--overwrite"
    )
    assert (tmp_path / "new-qat" / "thesis.txt").read_text() == "mine"


def test_gates_that_are_being_handed_over(zoo, mistake, classifier, tmp_path):
    assert zoo("swap", classifier, "cbam", "--out", tmp_path / "swapped").code == 0
    assert "gates are being handed over" in mistake("quantize", tmp_path / "swapped", "--to", ONNX, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "to, library, extra",
    [
        ("onnx-int8", "onnxruntime", "onnx"),
        ("openvino-int8", "nncf", "openvino"),
        ("openvino-bf16", "openvino", "openvino"),
        ("executorch-int8", "executorch", "executorch"),
        ("torchao-int8", "torchao", "torchao"),
    ],
)
def test_a_missing_library_is_named(mistake, classifier, tmp_path, monkeypatch, to, library, extra):
    for module in [each for each in sys.modules if each.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    assert f"pip install 'effnet-zoo[{extra}]'" in mistake("quantize", classifier, "--to", to, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""A name, a run or an exported folder becomes what is measured, with what is known of it."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch

import zoo
from zoo.build.candidate import open_candidate, peers
from zoo.deploy import write_exported
from zoo.deploy.network_speed import Worth
from zoo.deploy.ways import Written
from zoo.train import TrainConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    torch.manual_seed(0)
    data = zoo.open_data("digits")
    task = zoo.create_task("effnet_eca_test", data)
    zoo.fit(
        task, data.train.take(np.arange(64)), data.eval.take(np.arange(32)), TrainConfig(epochs=1, out=str(out)), about={"data": "digits"}
    )
    return out


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "ts"
    opened = zoo.load_run(run)
    write_exported(opened.task, json.loads((run / "config.json").read_text()), "torchscript", out, run=str(run))
    return out


def last(run):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["top1"]


def test_a_name():
    found = open_candidate("effnet_cbam_test")
    assert (found.name, found.size, found.worth, found.bytes) == ("effnet_cbam_test", (3, 160, 160), None, None)
    assert found.parameters == sum(each.numel() for each in timm.create_model("effnet_cbam_test").parameters())
    assert open_candidate("effnet_cbam_test", img_size=80).macs == pytest.approx(found.macs / 4, rel=0.05)


def test_a_run(run):
    found = open_candidate(str(run))
    assert found.size == (3, 32, 32) and found.bytes == (run / "model.safetensors").stat().st_size
    assert found.worth == Worth("top1", last(run), "digits")
    wanted = zoo.load_run(run).task.trainable_module.eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.network.eval()(x), wanted(x))
    larger = open_candidate(str(run), img_size=64)
    assert larger.size == (3, 64, 64) and larger.worth is None, "it was measured at another size"
    assert larger.macs == pytest.approx(4 * found.macs, rel=0.05)


def test_an_exported_folder(exported, run, tmp_path):
    found = open_candidate(str(exported))
    assert found.network == Written("torchscript", exported / "model.ts", {}) and found.size == (3, 32, 32)
    assert found.worth == Worth("top1", last(run), "digits"), "as the run that it says the same as"
    with pytest.raises(ValueError, match="takes pictures of 32 pixels and no others: export it again with --img-size 64"):
        open_candidate(str(exported), img_size=64)
    quantized = tmp_path / "int8"
    shutil.copytree(exported, quantized)
    card = {"made": {"verb": "quantize", "data": "digits"}, "before": {"top1": 90.0}, "after": {"top1": 12.5, "parameters": 7, "macs": 9}}
    (quantized / "card.json").write_text(json.dumps(card))
    found = open_candidate(str(quantized))
    assert found.worth == Worth("top1", 12.5, "digits") and (found.parameters, found.macs) == (7, 9)
    (quantized / "card.json").unlink()
    config = json.loads((quantized / "config.json").read_text())
    config["runtime"]["options"] = {"precision": "bf16"}
    (quantized / "config.json").write_text(json.dumps(config))
    assert open_candidate(str(quantized)).worth is None, "what was not measured in so few bits is not known"


def test_the_card_of_a_run_goes_first(run, tmp_path):
    pruned = tmp_path / "half"
    shutil.copytree(run, pruned)
    for names in (("before", "after"), ("teacher", "student")):
        (pruned / "card.json").write_text(json.dumps({"made": {"data": "mine.csv"}, names[0]: {"top1": 99.0}, names[1]: {"top1": 55.0}}))
        assert open_candidate(str(pruned)).worth == Worth("top1", 55.0, "mine.csv")
    (pruned / "card.json").write_text("{")
    assert open_candidate(str(pruned)).worth == Worth("top1", last(run), "digits")
    (pruned / "metrics.jsonl").unlink()
    assert open_candidate(str(pruned)).worth is None


def test_peers():
    state = torch.get_rng_state()
    found = peers(32)
    assert [each.name for each in found] == ["timm/efficientnet_b0", "torchvision/efficientnet_b0", "timm/mobilenetv3_large_100"]
    assert torch.equal(torch.get_rng_state(), state) and all(each.size == (3, 32, 32) and each.worth is None for each in found)
    ours = open_candidate("efficientnet_b0", img_size=32)
    assert found[0].parameters == found[1].parameters == ours.parameters and found[0].macs == pytest.approx(found[1].macs, rel=1e-3)


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'effnet_cbam_b0'"):
        open_candidate("effnet_cbma_b0")
    with pytest.raises(FileNotFoundError, match="no such run directory"):
        open_candidate("runs/none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no network"):
        open_candidate(str(tmp_path))

"""zoo swap: another attention in a run, as a new run."""

import json
import os
import shutil
import signal

import pytest
import timm
import torch

from zoo import attention_slots, load_run
from zoo.backbones.graft import hand_overs
from zoo.backbones.slots import reader
from zoo.train.task import Task

SMALL = ("--img-size", "32", "--batch-size", "8", "--epochs", "1")


def held(run) -> list[str]:
    return [name for _, name, _ in attention_slots(timm.create_model(f"local-dir:{run}", pretrained=True))]


def says(run) -> torch.Tensor:
    with torch.no_grad():
        return timm.create_model(f"local-dir:{run}", pretrained=True).eval()(torch.ones(1, 3, 32, 32))


def files(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def swap_mistake(mistake, classifier, tmp_path):
    """The line with which `zoo swap RUN ...` refuses; neither the run nor --out may have changed."""

    def call(*arguments, out=None):
        out = tmp_path / "refused" if out is None else out
        before, there = files(classifier), files(out) if out.is_dir() else None
        told = mistake("swap", classifier, *arguments, "--out", out)
        assert files(classifier) == before and (files(out) if out.is_dir() else None) == there
        return told

    return call


def test_a_new_run_that_says_what_the_old_one_said(zoo, classifier, tmp_path):
    before = files(classifier)
    said = zoo("swap", classifier, "cbam", "--out", tmp_path / "new")
    assert said.code == 0 and files(classifier) == before
    assert said.out.splitlines()[0].split() == ["slot", "old", "new", "parameters", "how"] and "5 gates take over while" in said.out
    assert f"next: zoo train {tmp_path / 'new'} --data" in said.err
    assert held(tmp_path / "new") == ["eca>cbam"] * 5 and torch.equal(says(tmp_path / "new"), says(classifier))
    assert sorted(files(tmp_path / "new")) == ["config.json", "model.safetensors"]
    old, new = (zoo("eval", run, "--json").json for run in (classifier, tmp_path / "new"))
    assert {key: value for key, value in old.items() if key != "run"} == {key: value for key, value in new.items() if key != "run"}
    about = json.loads((tmp_path / "new" / "config.json").read_text())["zoo"]
    assert about["swapped"] == {"from": str(classifier), "attention": "cbam", "keep": "graft", "slots": 5}


def test_as_json(zoo, classifier, tmp_path):
    said = zoo("swap", classifier, "cbam", "--out", tmp_path / "new", "--stages", "3, 4", "--where", "*.4.*", "--keep", "fresh", "--json")
    (slot,) = said.json["slots"]
    assert said.code == 0 and (slot["slot"], slot["old"], slot["new"], slot["how"]) == ("blocks.4.0.se", "eca", "cbam", "fresh")
    assert held(tmp_path / "new") == ["eca"] * 4 + ["cbam"]


def test_then_trained_like_any_model(zoo, classifier, disk, tmp_path):
    """The directory is a name: the swapped network, with its weights, whatever --pretrained says."""
    zoo("swap", classifier, "cbam", "--out", tmp_path / "new")
    trained = zoo(
        "train", tmp_path / "new", "--data", disk.manifest, "--out", tmp_path / "trained", *SMALL, "--lr", "1e-9", "--freeze", "bn"
    )
    assert trained.code == 0 and "the new gates have taken over in 5 slots" in trained.err
    assert held(tmp_path / "trained") == ["cbam"] * 5
    networks = [timm.create_model(f"local-dir:{run}", pretrained=True) for run in (classifier, tmp_path / "trained")]
    one, other = (network.state_dict() for network in networks)
    readers = [reader(networks[0], path) for path, *_ in attention_slots(networks[0])]
    behind = {f"{path}.weight" for path, module in networks[0].named_modules() if any(module is each for each in readers)}
    for key in behind:  # they took the gains over, one a channel that they read
        gain = (one[key] * other[key]).sum((0, 2, 3), keepdim=True) / one[key].square().sum((0, 2, 3), keepdim=True)
        assert torch.allclose(one[key] * gain, other[key], atol=1e-4) and not torch.allclose(gain, torch.ones(()), atol=0.1)
    trunk = [key for key in one if ".se." not in key and "num_batches" not in key and key not in behind]
    assert len(behind) == 4, "behind the first block's gate stands no convolution"
    assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in trunk), "it started from the run's weights, the classifier's too"
    assert load_run(tmp_path / "trained").settings["model"] == str(tmp_path / "new")


def stop_after(steps, monkeypatch):
    """SIGTERM in the training that follows, until `monkeypatch.undo()`."""
    count = [0]

    def stop(self):
        count[0] += 1
        if count[0] == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Task, "after_step", stop)


def test_a_stopped_training_of_it_goes_on(zoo, classifier, disk, tmp_path, monkeypatch):
    zoo("swap", classifier, "cbam", "--out", tmp_path / "new")
    train = ("train", tmp_path / "new", "--data", disk.manifest, "--img-size", "32", "--batch-size", "8", "--epochs", "2")
    assert zoo(*train, "--out", tmp_path / "whole").code == 0
    stop_after(2, monkeypatch)
    assert zoo(*train, "--out", tmp_path / "cut").code != 0
    monkeypatch.undo()
    assert len(list(hand_overs(timm.create_model(f"local-dir:{tmp_path / 'cut'}", pretrained=True)))) == 5
    assert zoo(*train, "--out", tmp_path / "cut", "--resume").code == 0
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_in_one_step(zoo, classifier, disk, tmp_path):
    said = zoo("swap", classifier, "cbam", "--out", tmp_path / "new", "--finetune-epochs", "2", "--lr", "0.001", "--json")
    assert said.code == 0 and said.json["epoch"] == 2 and said.json["lr"] <= 0.001
    assert held(tmp_path / "new") == ["cbam"] * 5
    settings = load_run(tmp_path / "new").settings
    assert settings["epochs"] == 2 and settings["lr"] == 0.001 and settings["batch_size"] == 8 and settings["data"] == str(disk.manifest)
    assert settings["swapped"]["attention"] == "cbam"
    again = zoo("swap", tmp_path / "new", "none", "--out", tmp_path / "plain", "--keep", "fresh")
    assert again.code == 0 and held(tmp_path / "plain") == []


def test_a_stopped_fine_tuning_goes_on(zoo, classifier, tmp_path, monkeypatch):
    swap = ("swap", classifier, "cbam", "--finetune-epochs", "2")
    assert zoo(*swap, "--out", tmp_path / "whole").code == 0
    stop_after(2, monkeypatch)
    said = zoo(*swap, "--out", tmp_path / "cut")
    assert said.code != 0 and "--resume" in said.err
    monkeypatch.undo()
    again = zoo(*swap, "--out", tmp_path / "cut")
    assert again.code != 0 and "resume it (--resume)" in again.err
    assert zoo(*swap, "--out", tmp_path / "cut", "--resume").code == 0
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert zoo("swap", classifier, "cbam", "--out", tmp_path / "cut", "--resume").code != 0


def test_the_picture_tower_of_a_joint_embedding(zoo, joint, disk, tmp_path):
    said = zoo("swap", joint, "cbam", "--out", tmp_path / "new")
    assert said.code == 0 and "--finetune-epochs" in said.err, "zoo train DIR would leave the other towers behind"
    assert held(tmp_path / "new") == ["eca>cbam"] * 5
    old, new = (zoo("eval", run, "--json").json for run in (joint, tmp_path / "new"))
    assert {key: value for key, value in old.items() if key != "run"} == {key: value for key, value in new.items() if key != "run"}
    for name in ("joint.safetensors", "tokenizer.text.json"):
        assert (tmp_path / "new" / name).read_bytes() == (joint / name).read_bytes()
    tuned = zoo("swap", joint, "cbam", "--out", tmp_path / "tuned", "--finetune-epochs", "1", "--stages", "4")
    assert tuned.code == 0 and held(tmp_path / "tuned") == ["eca"] * 4 + ["cbam"]
    assert zoo("eval", tmp_path / "tuned", "--json").code == 0
    tower = zoo("train", f"image={tmp_path / 'new'}", "text=bag", "--data", disk.manifest, "--out", tmp_path / "towers", *SMALL)
    assert tower.code == 0 and held(tmp_path / "towers") == ["cbam"] * 5


def test_what_is_replaced_is_replaced_whole(zoo, classifier, joint, tmp_path):
    """No checkpoint and no tower of the run that was there may be taken for one of the new network."""
    out = tmp_path / "run"
    shutil.copytree(joint, out)
    (out / "notes.txt").write_text("mine")
    assert zoo("swap", classifier, "cbam", "--out", out, "--overwrite").code == 0
    assert sorted(files(out)) == ["config.json", "model.safetensors", "notes.txt"] and held(out) == ["eca>cbam"] * 5


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("cbamm",), "did you mean 'cbam'"),
        (("cbam", "--keep", "graf"), "keep: expected graft or fresh, got 'graf'"),
        (("cbam", "--stages", "9"), "stages: GatedEfficientNet has slots in stages 0, 1, 2, 3, 4, got 9"),
        (("cbam", "--stages", "4,x"), "stages: expected numbers such as 4,5, got '4,x'"),
        (("cbam", "--stages", "-1"), "stages: expected numbers such as 4,5, got '-1'"),
        (("cbam", "--stages", ""), "stages: expected numbers"),
        (("cbam", "--where", "blocks.7.*"), "where='blocks.7.*' matches none of the 5 slots"),
        (("cbam", "--finetune-epochs", "1", "--lr", "-1"), "lr: expected a number above 0, got -1"),
        (("cbam", "--finetune-epochs", "1", "--data", "digits"), "has other classes than the run"),
    ],
    ids=str,
)
def test_a_mistake(swap_mistake, arguments, told):
    assert told in swap_mistake(*arguments)


def test_where_nothing_may_be_written(swap_mistake, classifier, joint, tmp_path):
    assert "is the run itself" in swap_mistake("cbam", out=classifier)
    assert "already holds a run; replace it (--overwrite)" in swap_mistake("cbam", out=joint)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "is not empty and holds no run" in swap_mistake("cbam", "--overwrite", out=tmp_path / "full")
    (tmp_path / "file").write_text("mine")
    assert "is not empty and holds no run" in swap_mistake("cbam", out=tmp_path / "file")


def test_a_run_that_is_none(mistake, tmp_path):
    assert "no such directory" in mistake("swap", tmp_path / "nothing", "cbam", "--out", tmp_path / "out")
    assert "is not a run" in mistake("swap", tmp_path, "cbam", "--out", tmp_path / "out")


def test_a_network_without_a_place(zoo, mistake, disk, tmp_path):
    run = tmp_path / "run"
    assert zoo("train", "test_convnext", "--data", disk.manifest, "--out", run, *SMALL).code == 0
    assert "so there is nothing to swap" in mistake("swap", run, "cbam", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()

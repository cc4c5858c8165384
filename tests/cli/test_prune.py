"""zoo prune: a run to one with narrower blocks, recovered, with a card; a stopped one goes on; mistakes are told."""

import json
import os
import signal
import sys

import pytest
import timm
import torch

from zoo import load_run
from zoo.backbones.slots import blocks, widths
from zoo.train.task import Task

pytest.importorskip("torch_pruning", reason="torch-pruning is not installed: pip install 'effnet-zoo[prune]'")


def files(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def says(run) -> torch.Tensor:
    with torch.no_grad():
        return timm.create_model(f"local-dir:{run}", pretrained=True).eval()(torch.ones(1, 3, 32, 32))


def stop_after(steps, monkeypatch):
    """SIGTERM in the training that follows, until `monkeypatch.undo()`."""
    count = [0]

    def stop(self):
        count[0] += 1
        if count[0] == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Task, "after_step", stop)


def channels(run) -> list[int]:
    return [widths(block)[0] for _, _, block in blocks(timm.create_model(f"local-dir:{run}", pretrained=True))]


@pytest.fixture
def prune_mistake(mistake, classifier, tmp_path):
    """The line with which `zoo prune RUN ...` refuses; nothing may have been written."""

    def call(*arguments, out=None, run=classifier):
        out = tmp_path / "refused" if out is None else out
        there = files(out) if out.is_dir() else None
        told = mistake("prune", run, *arguments, "--out", out)
        assert (files(out) if out.is_dir() else None) == there
        return told

    return call


def test_by_default_it_recovers_for_twice_the_epochs_of_the_run(zoo, classifier, tmp_path):
    said = zoo("prune", classifier, "--macs", "0.7", "--steps", "1", "--no-distill", "--out", tmp_path / "cut", "--json")
    assert said.code == 0, said.err
    epochs = load_run(classifier).settings["epochs"]
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == said.json["made"]["epochs"] == 2 * epochs


def test_cut_and_recovered_by_distillation(zoo, classifier, disk, tmp_path):
    before, out = files(classifier), tmp_path / "half"
    said = zoo("prune", classifier, "--macs", "0.5", "--finetune-epochs", "3", "--out", out)
    assert said.code == 0 and files(classifier) == before
    assert said.out.splitlines()[0].split() == ["width", "made", "by", "gate", "channels"] and "its card in" in said.err
    makers = [line.split()[0] for line in said.out.splitlines()[2:-2]]
    assert makers == ["conv_stem", "blocks.1.0.conv_exp", "blocks.2.0.conv_exp", "blocks.3.0.conv_pw", "blocks.4.0.conv_pw"]
    old, new = channels(classifier), channels(out)
    assert new[0] == old[0] and all(after < before for before, after in zip(old[1:], new[1:], strict=True))
    run = load_run(out)
    assert run.settings["pruned"] == {"from": str(classifier), "macs": 0.5, "steps": 3, "distilled": True}
    assert run.settings["teacher"] == str(classifier) and run.settings["epochs"] == 1 and run.settings["data"] == str(disk.manifest)
    card = json.loads((out / "card.json").read_text())
    assert card["made"]["verb"] == "prune" and card["made"]["data"] == str(disk.manifest)
    assert card["before"]["top1"] == zoo("eval", classifier, "--json").json["top1"]
    assert card["after"]["top1"] == zoo("eval", out, "--json").json["top1"]
    assert abs(card["after"]["macs"] / card["before"]["macs"] - 0.5) < 0.03
    for side, folder in (("before", classifier), ("after", out)):
        assert card[side]["bytes"] == (folder / "model.safetensors").stat().st_size
        network = timm.create_model(f"local-dir:{folder}")
        assert card[side]["parameters"] == sum(each.numel() for each in network.parameters())
    shown = (out / "card.md").read_text()
    assert "| macs |" in shown and f"| top1 | {card['before']['top1']:.2f} | {card['after']['top1']:.2f} |" in shown
    assert not (out / "steps").exists()


def test_without_fine_tuning_and_without_data(zoo, classifier, tmp_path):
    said = zoo("prune", classifier, "--macs", "0.6", "--finetune-epochs", "0", "--out", tmp_path / "cut", "--json")
    assert said.code == 0 and said.json["made"]["distilled"] is False and said.json["after"]["top1"] is not None
    assert [each["layer"] for each in said.json["widths"]][:3] == ["conv_stem", "blocks.1.0.conv_exp", "blocks.2.0.conv_exp"]
    assert sorted(files(tmp_path / "cut")) == ["card.json", "card.md", "config.json", "model.safetensors"]
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    del config["zoo"]["data"]
    (tmp_path / "cut" / "config.json").write_text(json.dumps(config))
    again = zoo("prune", tmp_path / "cut", "--macs", "0.7", "--finetune-epochs", "0", "--out", tmp_path / "again")
    assert again.code == 0 and "warning: nothing is measured" in again.err
    assert json.loads((tmp_path / "again" / "card.json").read_text())["after"]["top1"] is None
    assert channels(tmp_path / "again") < channels(tmp_path / "cut"), "pruned twice"
    swapped = zoo("swap", tmp_path / "cut", "cbam", "--out", tmp_path / "swapped")
    assert swapped.code == 0 and torch.equal(says(tmp_path / "swapped"), says(tmp_path / "cut"))
    assert zoo("export", tmp_path / "cut", "--to", "timm", "--out", tmp_path / "exported").code == 0


def test_a_joint_embedding(zoo, joint, tmp_path):
    said = zoo("prune", joint, "--macs", "0.5", "--finetune-epochs", "2", "--steps", "2", "--out", tmp_path / "half")
    assert said.code == 0 and "it recovers by the run's own loss" in said.err
    old, new = load_run(joint).task.trainable_module, load_run(tmp_path / "half").task.trainable_module
    assert sum(each.numel() for each in new.towers["image"].parameters()) < sum(each.numel() for each in old.towers["image"].parameters())
    assert new.towers["image"].num_features == old.towers["image"].num_features
    card = json.loads((tmp_path / "half" / "card.json").read_text())
    assert card["after"]["R@1"] == pytest.approx(zoo("eval", tmp_path / "half", "--json").json["R@1"])
    assert zoo("search", tmp_path / "half", "bright").code == 0


def test_a_stopped_one_goes_on(zoo, classifier, tmp_path, monkeypatch):
    command = ("prune", classifier, "--macs", "0.5", "--steps", "2", "--finetune-epochs", "2")
    assert zoo(*command, "--out", tmp_path / "whole").code == 0
    for steps, name in ((2, "first"), (4, "second")):  # three steps an epoch: in the recovery of the first cut, and of the last
        out = tmp_path / name
        stop_after(steps, monkeypatch)
        assert zoo(*command, "--out", out).code == 143
        monkeypatch.undo()
        assert (out / "steps" / "1").is_dir()
        assert "already holds a run; resume it (--resume)" in zoo(*command, "--out", out).err
        assert zoo(*command, "--out", out, "--resume").code == 0
        assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
        assert not (out / "steps").exists()
        done = files(out)
        said = zoo(*command, "--out", out, "--resume")
        assert said.code == 0 and "is whole: nothing is left to do" in said.err and files(out) == done


def test_a_stopped_replacement_goes_on(zoo, classifier, tmp_path, monkeypatch):
    out, command = tmp_path / "out", ("prune", classifier, "--steps", "2", "--finetune-epochs", "2")
    assert zoo("prune", classifier, "--macs", "0.7", "--finetune-epochs", "0", "--out", out).code == 0
    stop_after(2, monkeypatch)
    assert zoo(*command, "--out", out, "--overwrite").code == 143
    monkeypatch.undo()
    assert not (out / "card.json").exists(), "else it would be taken for whole"
    assert zoo(*command, "--out", out, "--resume").code == 0 and load_run(out).settings["pruned"]["macs"] == 0.5


def test_what_is_replaced(zoo, classifier, tmp_path):
    out = tmp_path / "out"
    assert zoo("prune", classifier, "--finetune-epochs", "0", "--out", out).code == 0
    said = zoo("prune", classifier, "--macs", "0.7", "--finetune-epochs", "1", "--steps", "1", "--no-distill", "--out", out, "--overwrite")
    assert said.code == 0 and load_run(out).settings["pruned"]["macs"] == 0.7 and "teacher" not in load_run(out).settings
    assert zoo("train", "effnet_eca_test", "--data", load_run(out).settings["data"], "--epochs", "1", "--out", out, "--overwrite").code == 0
    assert not (out / "card.json").exists(), "a card is of the run that wrote it"


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("--macs", "0"), "macs: expected the share of the multiplications that is to be left, between 0 and 1, such as 0.5, got 0"),
        (("--macs", "1"), "between 0 and 1, such as 0.5, got 1"),
        (("--macs", "-0.5"), "between 0 and 1"),
        (("--macs", "0.02"), "macs: 0.02 cannot be reached in effnet_eca_test"),
        (("--resume", "--overwrite"), "resume and overwrite contradict each other"),
        (("--resume",), "holds no run; leave resume out to start one"),
        (("--resume", "--finetune-epochs", "0"), "it is a fine-tuning that goes on"),
        (("--data", "digits"), "has other classes than the run"),
        (("--lr", "-1"), "lr: expected a number above 0, got -1"),
    ],
    ids=str,
)
def test_a_mistake(prune_mistake, arguments, told):
    assert told in prune_mistake(*arguments)


def test_where_nothing_may_be_written(prune_mistake, classifier, joint, tmp_path):
    assert "is the run itself" in prune_mistake(out=classifier)
    assert "already holds a run; resume it (--resume), replace it (--overwrite)" in prune_mistake(out=joint)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "is not empty and holds no run" in prune_mistake("--overwrite", out=tmp_path / "full")


def test_distillation_of_a_joint_embedding(prune_mistake, joint):
    assert "distillation is for classifiers" in prune_mistake("--distill", run=joint)


def test_without_the_extra(prune_mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert "pip install 'effnet-zoo[prune]'" in prune_mistake()


def test_a_network_without_such_a_width(zoo, mistake, disk, tmp_path):
    run, small = tmp_path / "run", ("--img-size", "32", "--batch-size", "8", "--epochs", "1")
    assert zoo("train", "test_convnext", "--data", disk.manifest, "--out", run, *small).code == 0
    assert "test_convnext has no width that can be cut" in mistake("prune", run, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""The command that makes a run again: it is given to the command line, and makes a run of the very same settings."""

import json
import shlex

import pytest

from zoo.cli.app import run
from zoo.report.command import command, reservations
from zoo.report.journal import Journal, read_journal

CLASSIFIER = (
    *("effnet_eca_test", "--img-size", "32", "--epochs", "1", "--batch-size", "6", "--accumulate", "2", "--lr", "0.0012", "--opt", "sgd"),
    *("--sched", "tanh", "--warmup", "0.1", "--weight-decay", "0.001", "--clip-grad", "1.5", "--ema", "0.99", "--augment", "none"),
    *("--smoothing", "0", "--mixup", "0.2", "--cutmix", "0.3", "--drop-path", "0", "--freeze", "bn,stem", "--sample", "balanced"),
    *("--patience", "3", "--seed", "7", "--broken", "skip"),
)
JOINT = (
    *("image=effnet_eca_test", "text=bag", "--img-size", "32", "--epochs", "1", "--batch-size", "6", "--head", "image=attnpool,text=mlp"),
    *("--embed-dim", "24", "--loss", "siglip", "--weights", "image-text=0.5", "--tower-lr", "text=0.01", "--freeze", "bn"),
)


def settings(folder):
    return json.loads((folder / "config.json").read_text())["zoo"]


@pytest.mark.parametrize("given", [CLASSIFIER, JOINT], ids=["classifier", "joint"])
def test_it_makes_the_same_run(given, drawn, tmp_path):
    first, again = tmp_path / "a run", tmp_path / "again"
    assert run(["train", *given, "--data", str(drawn), "--out", str(first)]) == 0
    words = shlex.split(command(read_journal(first)))
    assert words[:2] == ["zoo", "train"] and words[-2:] == ["--out", str(first)]
    assert run([*words[1:-1], str(again)]) == 0
    assert settings(again) == settings(first)
    if given is CLASSIFIER:
        assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_defaults_are_left_out(classifier):
    told = command(read_journal(classifier))
    for option in ("--opt", "--warmup", "--smoothing", "--weight-decay", "--precision", "--accumulate", "--freeze", "--pretrained"):
        assert option not in told
    assert "--epochs 2" in told and "--seed 0" in told and "--batch-size 8" in told


def journal(settings, *, epochs=(), card=None, runtime=None):
    from pathlib import Path

    config = {"zoo": {"task": "classify", "model": "m", "data": "d", "img_size": 32, "augment": "none", "epochs": 4, **settings}}
    config |= {"runtime": runtime} if runtime else {}
    return Journal(Path("out"), config, epochs, card, {}, False, {}, ())


def test_networks_that_were_made_from_others():
    pruned = {"pruned": {"from": "a b", "macs": 0.5, "steps": 3, "distilled": False}}
    assert command(journal(pruned)) == "zoo prune 'a b' --macs 0.5 --steps 3 --finetune-epochs 0 --no-distill --out out"
    trained = journal(pruned, epochs=({"epoch": 1.0},), card={"made": {"epochs": 12}})
    assert "--finetune-epochs 12 " in command(trained) and not reservations(trained)
    older = journal(pruned, epochs=({"epoch": 1.0},), card={"made": {}})
    assert "--finetune-epochs" not in command(older) and "--finetune-epochs" in reservations(older)[0]
    swapped = journal({"swapped": {"from": "a", "attention": "coord", "keep": "graft", "slots": 3}})
    assert command(swapped) == "zoo swap a coord --keep graft --out out" and "--stages" in reservations(swapped)[0]
    made = {"made": {"from": "a", "edge": True, "qat_epochs": 0, "calibration_rows": 64}}
    quantized = journal({"quantized": {"from": "b", "to": "onnx-int8"}}, runtime={"name": "onnx"}, card=made)
    assert command(quantized) == "zoo quantize a --to onnx-int8 --edge --calibration-rows 64 --out out"
    assert command(journal({}, runtime={"name": "torch_export", "run": "a"})) == "zoo export a --to torch-export --out out"


def test_several_processes_and_what_no_command_says():
    assert command(journal({"processes": 4})).startswith("torchrun --nproc_per_node 4 -m zoo train m ")
    assert "model_options={'attn_stages': {}}" in reservations(journal({"model_options": {"attn_stages": {}}}))[0]
    assert "as an object" in reservations(journal({"towers": {"image": "<Net>"}}))[0]


def test_settings_of_another_version():
    assert command(journal({"task": "align"})) == ""

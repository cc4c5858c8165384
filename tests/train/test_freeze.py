"""Frozen parts learn nothing, keep their statistics and cost no backward; when they thaw is a function of the epoch."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import zoo
from zoo.datasets import Split
from zoo.train import Stopped
from zoo.train.freeze import Frozen

MODEL = "effnet_cbam_test"


def make(data, freeze, model=MODEL):
    torch.manual_seed(0)
    return zoo.create_task(model, data, freeze=freeze)


def state(task):
    return {key: each.clone() for key, each in task.trainable_module.state_dict().items()}


def moved(before, task):
    return {key for key, each in state(task).items() if not torch.equal(each, before[key])}


@pytest.mark.parametrize(
    "freeze, learns",
    [
        (["trunk"], lambda name: name.startswith("classifier.")),
        (["head"], lambda name: not name.startswith("classifier.")),
        (["stem", "blocks.0-1"], lambda name: not name.startswith(("conv_stem.", "bn1.", "blocks.0.", "blocks.1."))),
    ],
)
def test_what_is_frozen_stays_as_it_was(data, freeze, learns):
    task = make(data, freeze)
    before = state(task)
    zoo.fit(task, data.train, None, zoo.TrainConfig(epochs=1, batch_size=16, weight_decay=0.1))
    changed = moved(before, task)
    assert changed and all(map(learns, changed))
    assert {name for name, each in task.trainable_module.named_parameters() if each.requires_grad} <= set(filter(learns, before))
    free = make(data, [])  # the control
    zoo.fit(free, data.train, None, zoo.TrainConfig(epochs=1, batch_size=16))
    assert {"conv_stem.weight", "bn1.running_mean", "classifier.weight"} <= moved(before, free)


def test_a_frozen_trunk_has_no_graph(data):
    task = make(data, ["trunk"])
    task.plan_freezing(None)
    task.train()
    assert not task.trainable_module.forward_features(torch.zeros(2, 3, 32, 32)).requires_grad


def test_the_parts_of_a_network(data):
    network = timm.create_model("effnet_cbam_test", num_classes=2)
    names = {name for name, _ in network.named_parameters()}
    assert Frozen(network, ["trunk"]).names | Frozen(network, ["head"]).names == names
    assert Frozen(network, ["stem"]).names == {"conv_stem.weight", "bn1.weight", "bn1.bias"}
    other = timm.create_model("resnet18", num_classes=2)
    assert Frozen(other, ["head"]).names == {"fc.weight", "fc.bias"}
    for wrong, told in (("block.0", "blocks"), ("blocks.0-9", "'blocks.5' is no part"), ("trnk", "trunk")):
        with pytest.raises(ValueError, match=told):
            Frozen(network, [wrong])
    with pytest.raises(ValueError, match="nothing would learn"):
        Frozen(network, ["trunk", "head"])


def test_mistakes(data, tmp_path):
    with pytest.raises(ValueError, match="nothing is frozen that could thaw"):
        zoo.fit(make(data, []), data.train, None, zoo.TrainConfig(epochs=2, unfreeze_at=2))
    with pytest.raises(ValueError, match="between 2 and 2"):
        zoo.TrainConfig(epochs=2, unfreeze_at=3)
    task = make(data, ["trunk"], "effnet_se_test")
    zoo.swap_attention(task.trainable_module, "cbam")
    task.frozen = Frozen(task.trainable_module, ["trunk"])
    with pytest.raises(ValueError, match="is to take over and would never learn"):
        zoo.fit(task, data.train, None, zoo.TrainConfig(epochs=2))


def test_a_grafted_gate_begins_to_take_over_when_it_thaws(data, monkeypatch):
    task = make(data, [], "effnet_se_test")
    zoo.swap_attention(task.trainable_module, "cbam")
    task.frozen = Frozen(task.trainable_module, ["trunk"])
    shares = []
    monkeypatch.setattr("zoo.train.loop.set_share", lambda model, share: shares.append(share))
    zoo.fit(task, data.train, None, zoo.TrainConfig(epochs=4, batch_size=24, unfreeze_at=3, hand_over=1.0))
    assert shares == [0, 0, 0, 0, 0.25, 0.5, 0.75, 1.0]


class StopAfter:
    def __init__(self, read, rows):
        self.read, self.left = read, rows

    def __call__(self, index):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), 15)
        return self.read(index)


@pytest.mark.parametrize("rows", [20, 60, 120])  # before it thaws, in the epoch in which it does, after
def test_a_run_that_is_stopped_thaws_exactly(data, tmp_path, rows):
    how = dict(epochs=3, batch_size=16, unfreeze_at=2, ema=0.9)

    def weights(out):
        return hashlib.sha256((tmp_path / out / "model.safetensors").read_bytes()).hexdigest()

    task = make(data, ["trunk"])
    before = state(task)
    zoo.fit(task, data.train, None, zoo.TrainConfig(out=str(tmp_path / "whole"), **how))
    assert "conv_stem.weight" in moved(before, task)
    train = Split(48, StopAfter(data.train.read, rows), data.train.columns)
    with pytest.raises(Stopped):
        zoo.fit(make(data, ["trunk"]), train, None, zoo.TrainConfig(out=str(tmp_path / "cut"), **how))
    zoo.fit(make(data, ["trunk"]), data.train, None, zoo.TrainConfig(out=str(tmp_path / "cut"), resume=True, **how))
    assert weights("cut") == weights("whole")


PROCESSES = """
import sys, torch, zoo
sys.path.insert(0, {here!r})
from conftest import read, read_eval
from zoo.datasets import Data, Split
from zoo.train.engine import leave

columns = ("image", "label", "text")
data = Data("x", Split(48, read, columns), Split(16, read_eval, columns), classes=("dark", "bright"), img_size=32, augment="shift")
torch.manual_seed(0)
task = zoo.create_task("effnet_cbam_test", data, freeze=["trunk"], freeze_bn=True)
before = {{key: each.clone() for key, each in task.trainable_module.state_dict().items()}}
config = zoo.TrainConfig(epochs=2, batch_size=12, unfreeze_at=2, out={out!r}, device="cpu", opt="sgd", lr=0.05)
zoo.fit(task, data.train, None, config)
leave()
"""


@pytest.mark.long
def test_two_processes_thaw_as_one_does(data, tmp_path):
    """What was frozen when the processes were joined has its gradients averaged as well: the weights are those of one process."""
    script = tmp_path / "script.py"
    script.write_text(PROCESSES.format(here=str(Path(__file__).parent), out=str(tmp_path / "two")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data, freeze=["trunk"], freeze_bn=True)
    before = state(task)
    zoo.fit(task, data.train, None, zoo.TrainConfig(epochs=2, batch_size=24, unfreeze_at=2, device="cpu", opt="sgd", lr=0.05))
    two = timm.create_model(f"local-dir:{tmp_path / 'two'}", pretrained=True).state_dict()
    changed = [key for key, each in state(task).items() if not torch.equal(each, before[key])]
    assert "conv_stem.weight" in changed
    for key, each in state(task).items():
        torch.testing.assert_close(two[key], each, atol=2e-5, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")

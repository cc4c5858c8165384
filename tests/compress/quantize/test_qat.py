"""Quantization-aware training: it helps where rounding afterwards costs, resumes exactly, and leaves a plain network."""

import copy
import hashlib
import os

import numpy as np
import pytest
import timm
import torch

import zoo
from zoo.compress import Distill
from zoo.compress.quantize import fake, plain, quantization_aware
from zoo.compress.quantize.sensitivity import outputs, sqnr
from zoo.datasets import Split
from zoo.train import Classify, Stopped


def copied(trained, network=None):
    """The trained task again, with a network of its own, and the network it learns from."""
    task = copy.deepcopy(trained[0])
    if network is not None:
        task.trainable_module = copy.deepcopy(network)
    teacher = copy.deepcopy(task.trainable_module)
    return Distill.of(task, teacher=teacher, teacher_name="itself")


def rounded(network, rows):
    """The network as int8 would have it."""
    made = copy.deepcopy(network).eval()
    fake.attach(made)
    fake.quantize_only(made, fake.watch(made, rows[0]))
    return made


def test_it_helps_where_rounding_costs(trained, hard, rows, digits):
    pixels, labels = digits

    @torch.no_grad()
    def accuracy(network):
        return 100 * (network(pixels).argmax(1).numpy() == labels).mean()

    before = accuracy(rounded(hard, rows))
    assert before < accuracy(hard.eval()) - 5, "else there is nothing to win back"
    task = copied(trained, hard)
    quantization_aware(task, task.trainable_module, rows[0])
    zoo.fit(task, trained[1].train.take(np.arange(768)), None, zoo.TrainConfig(epochs=2, lr=4e-4))
    plain(task)
    assert type(task) is Distill and not fake.ranges(task.trainable_module)
    assert accuracy(rounded(task.trainable_module, rows)) > before + 5


def test_a_stopped_run_goes_on_exactly(trained, rows, tmp_path):
    def fit(out, dies_at=None, **how):
        left = [dies_at or 10**6]

        def read(index):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), 15)
            return trained[1].train[index]

        task = copied(trained)
        quantization_aware(task, task.trainable_module, rows[0][:1])
        config = zoo.TrainConfig(epochs=2, batch_size=16, lr=1e-3, out=str(tmp_path / out), **how)
        zoo.fit(task, Split(64, read, ("image", "label")), None, config)
        return hashlib.sha256((tmp_path / out / "model.safetensors").read_bytes()).hexdigest()

    whole = fit("whole")
    with pytest.raises(Stopped):
        fit("cut", dies_at=90)
    assert fit("cut", resume=True) == whole


def test_what_is_saved_is_a_plain_network_and_norms_keep_their_statistics(trained, rows, tmp_path):
    task = copied(trained)
    quantization_aware(task, task.trainable_module, rows[0][:1])
    assert isinstance(task, Classify) and task.describe()["quantization_aware"] and task.describe()["freeze_bn"]
    before = copy.deepcopy(task.trainable_module.state_dict())
    started = fake.ranges(task.trainable_module)["classifier"].hi.clone()
    zoo.fit(task, trained[1].train.take(np.arange(64)), None, zoo.TrainConfig(epochs=1, lr=1e-3, out=str(tmp_path / "run")))
    back = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    assert back.state_dict().keys() == trained[0].trainable_module.state_dict().keys()
    after = task.trainable_module.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if "running_" in key)
    assert not torch.equal(after["conv_stem.weight"], before["conv_stem.weight"])
    assert fake.ranges(task.trainable_module)["classifier"].hi != started
    plain(task)
    assert all(torch.equal(each, back.state_dict()[key]) for key, each in task.trainable_module.state_dict().items())
    assert zoo.load_run(tmp_path / "run").task.name == task.name


@torch.no_grad()
def test_the_control_costs_little(network, rows):
    """The network that was not made hard loses next to nothing, so that what the others lose is what was done to it."""
    assert sqnr(outputs(network, rows[1]), outputs(rounded(network, rows), rows[1])) > 25

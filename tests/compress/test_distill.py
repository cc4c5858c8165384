"""Distillation: the loss is timm's formula, the teacher learns nothing and is in no file, and a stopped run goes on."""

import hashlib
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.compress import Distill
from zoo.datasets import Data, Split
from zoo.train import Stopped
from zoo.train.engine import Engine


def read(index):
    pixels = np.random.default_rng(index).integers(0, 60, (16, 16, 3)) + index % 2 * 180
    return {"image": Image.fromarray(pixels.astype(np.uint8)), "label": index % 2}


@pytest.fixture
def data():
    rows = Split(32, read, ("image", "label"))
    return Data("two kinds", rows, rows, classes=("dark", "bright"), img_size=32, augment="shift")


@pytest.fixture
def teacher(data, tmp_path):
    """A run that was normalised by other numbers than its student is."""
    torch.manual_seed(1)
    task = zoo.create_task("effnet_eca_test", data, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
    zoo.fit(task, data.train, None, zoo.TrainConfig(epochs=1, batch_size=16, out=str(tmp_path / "teacher")))
    return tmp_path / "teacher"


def make(data, teacher, **how):
    torch.manual_seed(0)
    return zoo.create_task("effnet_cbam_test", data, teacher=str(teacher), distill_alpha=0.7, distill_temperature=3.0, **how)


def test_the_loss_is_the_formula(data, teacher):
    task = make(data, teacher, smoothing=0.2, mean=(0.6, 0.5, 0.4))
    assert isinstance(task, Distill)
    task.train()
    assert not any(part.training for part in task.distillation.teacher.modules())
    task.trainable_module.eval()  # so that it says the same twice
    pixels = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    label = torch.tensor([0, 1, 0, 1, 1, 0])
    batch = {"image": (pixels - torch.tensor([0.6, 0.5, 0.4]).view(3, 1, 1)) / torch.tensor(task.preprocess.std).view(3, 1, 1)}
    loss = task.batch_loss({**batch, "label": label}).item()
    with torch.no_grad():
        student = task.trainable_module(batch["image"]).double()
        own = (pixels - torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
        known = zoo.load_run(teacher).task.trainable_module.eval()(own).double()
    targets = torch.full((6, 2), 0.1, dtype=torch.float64).scatter_(1, label[:, None], 0.9)
    labels = -(targets * student.log_softmax(1)).sum(1).mean()
    p, q = (known / 3).softmax(1), (student / 3).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    assert loss == pytest.approx((0.3 * labels + 0.7 * 9 * divergence).item(), rel=1e-4)


def test_the_teacher_learns_nothing_and_is_in_no_file(data, teacher, tmp_path):
    task = make(data, teacher)
    before = {key: each.clone() for key, each in task.distillation.teacher.state_dict().items()}
    assert task.describe()["teacher"] == str(teacher) and task.describe()["distill_alpha"] == 0.7
    zoo.fit(task, data.train, data.eval, zoo.TrainConfig(epochs=1, batch_size=16, ema=0.9, out=str(tmp_path / "run")))
    assert all(torch.equal(each, before[key]) for key, each in task.distillation.teacher.state_dict().items())
    assert all(each.grad is None for each in task.distillation.teacher.parameters())
    plain = sum(each.numel() for each in zoo.create_task("effnet_cbam_test", data).parameters())
    assert sum(each.numel() for each in zoo.load_run(tmp_path / "run").task.parameters()) == plain
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["zoo"]["teacher"] == str(teacher)


def test_the_student_learns_from_the_teacher_alone(data, teacher):
    """With alpha at 1 the labels say nothing: gradients do not change with them. The control: with less they do."""

    def gradient(alpha, label):
        torch.manual_seed(0)
        task = zoo.create_task("effnet_cbam_test", data, teacher=str(teacher), distill_alpha=alpha)
        task.train()
        task.trainable_module.eval()
        batch = {"image": torch.ones(2, 3, 32, 32), "label": torch.tensor([label, label]), "index": torch.arange(2)}
        task.training_step([batch], Engine("cpu"))
        return task.trainable_module.classifier.weight.grad

    assert torch.equal(gradient(1.0, 0), gradient(1.0, 1)) and gradient(1.0, 0).abs().max() > 0
    assert not torch.equal(gradient(0.5, 0), gradient(0.5, 1))


def test_a_stopped_run_goes_on_exactly(data, teacher, tmp_path):
    def fit(out, rows=None, **how):
        left = [rows or 10**6]

        def deadly(index):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), 15)
            return read(index)

        train = Split(32, deadly, ("image", "label"))
        zoo.fit(make(data, teacher, mixup=0.2), train, None, zoo.TrainConfig(epochs=2, batch_size=8, out=str(tmp_path / out), **how))
        return hashlib.sha256((tmp_path / out / "model.safetensors").read_bytes()).hexdigest()

    whole = fit("whole")
    with pytest.raises(Stopped):
        fit("cut", rows=42)
    assert fit("cut", resume=True) == whole


def test_a_teacher_that_does_not_fit_is_refused(data, teacher):
    three = Data("three", data.train, data.eval, classes=("dark", "bright", "none"), img_size=32)
    with pytest.raises(ValueError, match="tells 2 classes apart, the data has 3"):
        make(three, teacher)
    swapped = Data("swapped", data.train, data.eval, classes=("bright", "dark"), img_size=32)
    with pytest.raises(ValueError, match=r"expected the classes bright, dark, \.\.\., got dark, bright"):
        make(swapped, teacher)
    with pytest.raises(ValueError, match="cannot read pictures of 1 x 32 x 32"):
        make(data, teacher, model_options={"in_chans": 1})
    with pytest.raises(ValueError, match="for a classifier"):
        zoo.create_task({"image": "effnet_cbam_test", "text": "bag"}, data, teacher=str(teacher))

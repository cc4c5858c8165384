"""The range test: a suggestion where the loss falls, and a task that is as it was."""

import json
import math

import pytest
import torch

import zoo
from zoo.train.find_lr import LrCurve, find_lr, steepest


def test_steepest_is_where_the_loss_falls_most():
    lr = [10 ** (-5 + step / 10) for step in range(50)]
    smooth = [2 - 1 / (1 + math.exp(-4 * (math.log10(each) + 3))) if each < 0.1 else 5.0 for each in lr]
    assert steepest(lr, smooth) == pytest.approx(1e-3, rel=0.3)
    assert steepest(lr, sorted(smooth)) is None


def test_the_task_is_as_it_was(data, tmp_path):
    torch.manual_seed(0)
    task = zoo.create_task("effnet_cbam_test", data, freeze=["stem"])
    before = {key: each.clone() for key, each in task.trainable_module.state_dict().items()}
    curve = find_lr(task, data.train, zoo.TrainConfig(batch_size=16), steps=14)
    assert len(curve.lr) == len(curve.loss) == len(curve.smooth) > 10 and curve.lr[0] == pytest.approx(1e-6)
    assert curve.lr == sorted(curve.lr) and (curve.suggestion is None or curve.suggestion in curve.lr)
    assert max(curve.loss) - min(curve.loss) > 0.05  # the weights did move meanwhile
    assert all(torch.equal(each, before[key]) for key, each in task.trainable_module.state_dict().items())
    assert all(each.grad is None and each.requires_grad for each in task.trainable_module.parameters())
    again = find_lr(task, data.train, zoo.TrainConfig(batch_size=16), steps=14)
    assert again == curve
    curve.save(tmp_path)
    assert json.loads((tmp_path / "find_lr.json").read_text())["lr"] == curve.lr
    assert (tmp_path / "find_lr.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="10 steps or more"):
        find_lr(task, data.train, steps=3)


def test_a_curve_without_a_fall_is_drawn(tmp_path):
    LrCurve([1e-3, 1e-2], [1.0, 2.0], [1.0, 2.0], None).save(tmp_path)
    assert (tmp_path / "find_lr.png").exists()

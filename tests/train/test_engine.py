"""The engine: where a task is placed."""

import torch

import zoo
from zoo.train.engine import Engine


def test_a_task_in_its_place_stays_there(monkeypatch):
    """Of several processes on CPUs Accelerate calls the device cpu:0, and to move a module there would make new buffers."""
    engine = Engine("cpu")
    monkeypatch.setattr(type(engine.accelerator), "device", property(lambda self: torch.device("cpu", 0)))
    task = zoo.create_task("effnet_cbam_test", zoo.open_data("digits"))
    before = list(task.buffers())
    engine.place(task)
    assert all(one is other for one, other in zip(before, task.buffers(), strict=True))

import os
import shutil

import pytest
import torch

from zoo.train import checkpoint


def save(folder, step, value):
    return checkpoint.write(folder, step, {"model": {"w": torch.full((3,), value)}}, {"optimizer": {"lr": value}}, {"sums": [value, 1]})


def test_what_was_written_comes_back(tmp_path):
    save(tmp_path, 7, 0.5)
    tensors, optimizer, state = checkpoint.read(checkpoint.checkpoints(tmp_path)[-1])
    assert torch.equal(tensors["model"]["w"], torch.full((3,), 0.5)) and optimizer == {"optimizer": {"lr": 0.5}}
    assert state == {"step": 7, "sums": [0.5, 1]}


def test_the_last_two_are_kept_in_order_of_steps(tmp_path):
    for step in (9, 10, 100):
        save(tmp_path, step, 1.0)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-00000010", "step-00000100"]


@pytest.mark.parametrize("moment", ["save", "replace", "rmtree"])
def test_a_stop_in_the_middle_leaves_a_whole_one(tmp_path, monkeypatch, moment):
    for step in (1, 2):
        save(tmp_path, step, float(step))

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    target = {"save": (torch, "save"), "replace": (os, "replace"), "rmtree": (shutil, "rmtree")}[moment]
    monkeypatch.setattr(*target, stop)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 3, 3.0)
    monkeypatch.undo()
    whole = checkpoint.checkpoints(tmp_path)
    assert len(whole) >= 2
    for path in whole:
        tensors, _, state = checkpoint.read(path)
        assert tensors["model"]["w"][0] == state["step"]
    save(tmp_path, 3, 3.0)
    assert checkpoint.read(checkpoint.checkpoints(tmp_path)[-1])[2]["step"] == 3
    assert not list(tmp_path.glob(".writing*"))


def test_the_optimizer_is_read_without_running_anything(tmp_path):
    path = save(tmp_path, 1, 1.0)

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    torch.save({"optimizer": Bomb()}, path / "optimizer.pt")
    with pytest.raises(Exception, match="[Ww]eights"):
        checkpoint.read(path)
    assert not (tmp_path / "boom").exists()

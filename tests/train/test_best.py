"""Early stopping and the best epoch's model: functions of the log, so that a stopped run ends as one that was not."""

import hashlib
import json

import pytest
import torch

import zoo
from zoo.train import Stopped, checkpoint, loop

MODEL = "effnet_cbam_test"
SCORES = (60.0, 80.0, 70.0, 80.0, 75.0, 90.0)  # the second is the best for three epochs


@pytest.fixture
def scored(monkeypatch):
    """Evaluations that say what this list says, epoch by epoch."""
    monkeypatch.setattr(loop, "evaluate", lambda task, split, *, model, **how: {"top1": SCORES[int(task.progress * 6)]})


def fit(data, out, train=None, **how):
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data)
    config = zoo.TrainConfig(**{"epochs": 6, "batch_size": 24, "out": str(out), **how})
    return task, zoo.fit(task, train or data.train, data.eval, config)


def digest(run):
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def epochs(run):
    return [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_stops_after_so_many_epochs_without_a_better_one(data, tmp_path, scored):
    _, metrics = fit(data, tmp_path / "two", patience=2)
    assert metrics["epoch"] == 4 and epochs(tmp_path / "two") == [1, 2, 3, 4]
    fit(data, tmp_path / "four", patience=4)
    assert epochs(tmp_path / "four") == [1, 2, 3, 4, 5, 6]
    _, again = fit(data, tmp_path / "two", patience=2, resume=True)
    assert again["epoch"] == 4 and epochs(tmp_path / "two") == [1, 2, 3, 4]


def test_the_best_is_a_run_and_the_last_stays_where_it_was(data, tmp_path, scored):
    fit(data, tmp_path / "plain")
    assert not (tmp_path / "plain" / "best").exists()
    fit(data, tmp_path / "run", patience=2)
    fit(data, tmp_path / "kept", keep_best=True)
    assert digest(tmp_path / "kept") == digest(tmp_path / "plain") == digest(tmp_path / "kept" / "best")
    assert digest(tmp_path / "run") != digest(tmp_path / "run" / "best")
    second = zoo.load_run(tmp_path / "run" / "best").task.trainable_module.state_dict()
    assert int(second["bn1.num_batches_tracked"]) == 4  # steps of two epochs
    assert not list((tmp_path / "run").glob(".*"))
    fit(data, tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "best").exists()


@pytest.mark.parametrize("cut", [2, 3])
def test_a_restart_changes_neither(data, tmp_path, scored, monkeypatch, cut):
    fit(data, tmp_path / "whole", patience=2)
    take, written = loop._Training.take, loop._Training.save_checkpoint

    def deadly(self, step, micro):
        if step == 2 * cut:
            raise Stopped("stopped", 15)
        return take(self, step, micro)

    monkeypatch.setattr(loop._Training, "take", deadly)
    if cut == 2:  # after the best was written, before its checkpoint
        monkeypatch.setattr(loop._Training, "save_checkpoint", lambda self: written(self) if self.step < 4 else None)
    with pytest.raises(Stopped):
        fit(data, tmp_path / "cut", patience=2)
    monkeypatch.setattr(loop._Training, "take", take)
    monkeypatch.setattr(loop._Training, "save_checkpoint", written)
    fit(data, tmp_path / "cut", patience=2, resume=True)
    assert epochs(tmp_path / "cut") == epochs(tmp_path / "whole") == [1, 2, 3, 4]
    for run in (".", "best"):
        assert digest(tmp_path / "cut" / run) == digest(tmp_path / "whole" / run)


def test_gates_take_over_before_it_stops(data, tmp_path, scored):
    torch.manual_seed(0)
    task = zoo.create_task("effnet_se_test", data)
    zoo.swap_attention(task.trainable_module, "cbam")
    config = zoo.TrainConfig(epochs=6, batch_size=24, patience=1, hand_over=0.8, out=str(tmp_path))
    assert zoo.fit(task, data.train, data.eval, config)["epoch"] == 5


def test_the_best_needs_an_evaluation(data):
    with pytest.raises(ValueError, match="give rows to evaluate on"):
        zoo.fit(zoo.create_task(MODEL, data), data.train, None, zoo.TrainConfig(patience=1))


def test_a_run_of_older_settings_goes_on(data, tmp_path):
    fit(data, tmp_path, epochs=1)
    folder = tmp_path / "checkpoints"
    tensors, optimizer, state = checkpoint.newest(folder).contents
    for key in ("patience", "sample", "layer_decay", "unfreeze_at", "freeze", "init"):
        del state["settings"][key]
    checkpoint.write(folder, state.pop("step"), tensors, optimizer, state)
    fit(data, tmp_path, epochs=1, resume=True)
    with pytest.raises(ValueError, match="patience was None and is 3"):
        fit(data, tmp_path, epochs=1, patience=3, resume=True)

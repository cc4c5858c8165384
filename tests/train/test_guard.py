"""A step whose loss, gradients or statistics are no numbers changes nothing; a picture with a NaN in row 7 does it all."""

import json
import os
import signal
from contextlib import ExitStack

import pytest
import torch

import zoo
from zoo.train import Stopped, checkpoint
from zoo.train.guard import Guard
from zoo.train.randomness import deterministic

MODEL = "effnet_cbam_test"
BAD = 7
HOW = {"epochs": 2, "batch_size": 8, "ema": 0.9, "checkpoint_every": 1}


def with_a_bad_picture(task, value=float("nan"), rows=(BAD,)):
    collate = task.collate

    def spoilt(these):
        batch = collate(these)
        for place, index in enumerate(batch["index"].tolist()):
            if index in rows:
                batch["image"][place] = value
        return batch

    task.collate = spoilt
    return task


def make(data, model=MODEL, **options):
    torch.manual_seed(0)
    return zoo.create_task(model, data, **options)


def fit(task, data, out, **how):
    return zoo.fit(task, data.train, None, zoo.TrainConfig(out=str(out), **{**HOW, **how}))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def last(out):
    return checkpoint.read(checkpoint.checkpoints(out / "checkpoints")[-1])


def all_finite(tensors):
    return all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("model", [MODEL, {"image": MODEL, "text": "bag"}], ids=["classify", "align"])
def test_a_step_is_skipped_and_the_training_goes_on(data, tmp_path, capsys, model, value):
    metrics = fit(with_a_bad_picture(make(data, model), value), data, tmp_path, nonfinite="skip")
    skipped = lines(tmp_path / "skipped.jsonl")
    assert [each["step"] // 6 for each in skipped] == [0, 1]  # once an epoch
    assert all(BAD in each["rows"] and len(each["rows"]) == 8 and each["not_finite"] == [BAD] for each in skipped)
    assert [line["skipped"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 1] and 0 < metrics["loss"] < 10
    assert f"of which [{BAD}] hold numbers that are none" in capsys.readouterr().err
    tensors, optimizer, state = last(tmp_path)
    assert state["step"] == 12 and all_finite(tensors["model"]) and all_finite(tensors["ema"])
    assert {float(each["step"]) for each in optimizer["optimizer"]["state"].values()} == {10.0}


def test_a_skipped_step_changes_nothing(data, tmp_path):
    """The last step is the bad one: what is saved after it is what was saved before it. Also where a module got other buffers in between,
    as when it is moved to the device it is on."""
    task = make(data)
    training_step = task.training_step

    def spoil(batches, engine):
        if round(task.progress * 12) == 6:
            for module in task.modules():
                module._buffers.update({name: buffer.clone() for name, buffer in module._buffers.items() if buffer is not None})
        if round(task.progress * 12) == 11:
            batches[0]["image"][0] = float("nan")
        return training_step(batches, engine)

    task.training_step = spoil
    fit(task, data, tmp_path, nonfinite="skip")
    before, after = (checkpoint.read(path) for path in checkpoint.checkpoints(tmp_path / "checkpoints"))
    assert (before[2]["step"], after[2]["step"], after[2]["refused"]) == (11, 12, 1)
    for kind in ("model", "ema"):
        assert all(torch.equal(tensor, after[0][kind][key]) for key, tensor in before[0][kind].items())
    for key, each in before[1]["optimizer"]["state"].items():
        assert all(torch.equal(tensor, after[1]["optimizer"]["state"][key][name]) for name, tensor in each.items())


@pytest.mark.parametrize("guarded", [True, False])
def test_without_the_buffers_put_back_the_statistics_stay_spoilt(data, tmp_path, monkeypatch, guarded):
    """The picture went through the batch norms before the loss told of it."""
    if not guarded:
        monkeypatch.setattr(Guard, "keep", lambda self: self._buffers.clear())
        monkeypatch.setattr(Guard, "_statistics", [])
        monkeypatch.setattr(Guard, "check_weights", lambda self, step: None)
    fit(with_a_bad_picture(make(data)), data, tmp_path, nonfinite="skip", epochs=1)
    assert all_finite(last(tmp_path)[0]["model"]) == guarded


def test_without_the_guard_the_weights_are_lost(data, tmp_path, monkeypatch):
    """The control of the tests above."""
    monkeypatch.setattr(Guard, "refuses", lambda self, loss, norm: False)
    monkeypatch.setattr(Guard, "check_weights", lambda self, step: None)
    fit(with_a_bad_picture(make(data)), data, tmp_path, nonfinite="skip", epochs=1)
    assert not all_finite(last(tmp_path)[0]["model"])


@pytest.mark.parametrize("clip", [None, 1.0])
def test_gradients_alone_are_looked_at_too(data, tmp_path, clip):
    """The loss is a number, its gradient is not; the last good checkpoints stay as they are."""
    task = make(data)
    task.trainable_module.conv_stem.weight.register_hook(lambda gradient: gradient * (float("inf") if task.progress > 0.2 else 1.0))
    with pytest.raises(
        FloatingPointError, match=r"the gradient is (nan|inf) in step 3 \(its loss is [\d.]+\); its rows are \[\d+, .*--nonfinite skip"
    ):
        fit(task, data, tmp_path, clip_grad=clip)
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "checkpoints")] == ["step-00000002", "step-00000003"]
    assert all_finite(last(tmp_path)[0]["model"])
    assert all(parameter.isfinite().all() for parameter in task.parameters())


@pytest.mark.parametrize("guarded", [True, False])
def test_weights_that_are_no_numbers_are_not_saved(data, tmp_path, monkeypatch, guarded):
    """Loss and gradient of the step were numbers, the step itself went over the edge."""
    task = make(data)
    after_step = task.after_step

    def over_the_edge():
        after_step()
        if round(task.progress * 12) == 3:
            with torch.no_grad():
                task.trainable_module.classifier.weight[0, 0] = float("inf")

    task.after_step = over_the_edge
    if not guarded:
        monkeypatch.setattr(Guard, "check_weights", lambda self, step: None)
    with pytest.raises(
        FloatingPointError, match=r"after step 4 the weights are no numbers any more \(classifier.weight\)" if guarded else "loss"
    ):
        fit(task, data, tmp_path)
    assert all_finite(last(tmp_path)[0]["model"]) == guarded and last(tmp_path)[2]["step"] == (3 if guarded else 4)


def test_too_many_in_a_row_stop_the_run_also_over_a_restart(data, tmp_path):
    with pytest.raises(FloatingPointError, match="that makes 6 in a row"):
        fit(with_a_bad_picture(make(data), rows=range(48)), data, tmp_path / "one", nonfinite="skip")
    assert last(tmp_path / "one")[2]["step"] == 5
    with pytest.raises(FloatingPointError, match="that makes 6 in a row"):
        fit(with_a_bad_picture(make(data), rows=range(48)), data, tmp_path / "one", nonfinite="skip", resume=True)
    assert last(tmp_path / "one")[2]["step"] == 5 and len(lines(tmp_path / "one" / "skipped.jsonl")) == 5


def test_a_run_that_stopped_can_go_on_skipping_and_skips_are_exact(data, tmp_path):
    fit(with_a_bad_picture(make(data)), data, tmp_path / "whole", nonfinite="skip")
    with pytest.raises(FloatingPointError):
        fit(with_a_bad_picture(make(data)), data, tmp_path / "cut")
    task = with_a_bad_picture(make(data))
    update = task.update_ema
    task.update_ema = lambda step: (update(step), os.kill(os.getpid(), signal.SIGTERM) if step == 9 else None)
    with pytest.raises(Stopped):
        fit(task, data, tmp_path / "cut", nonfinite="skip", resume=True)
    fit(with_a_bad_picture(make(data)), data, tmp_path / "cut", nonfinite="skip", resume=True)
    files = ("model.safetensors", "skipped.jsonl")
    assert [(tmp_path / "cut" / file).read_bytes() for file in files] == [(tmp_path / "whole" / file).read_bytes() for file in files]


def test_a_mask_of_infinities_is_no_statistic():
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
            self.norm = torch.nn.BatchNorm1d(2)

    engine = zoo.train.engine.Engine("cpu")
    guard = Guard(Masked(), engine, zoo.train.folder.Folder(None, True, ExitStack()), policy="stop", steps_per_epoch=5)
    guard.keep()
    assert not guard.refuses(1.0, 1.0) and guard.refuses(float("nan"), 1.0)
    guard.module.norm.running_var[0] = float("inf")  # finite losses can come of that: all is divided away
    assert guard.refuses(1.0, 1.0)


def test_deterministic_is_for_the_length_of_a_training(data, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen = []

    def state():
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, os.environ.get("CUBLAS_WORKSPACE_CONFIG")

    task = make(data)
    after_step = task.after_step
    task.after_step = lambda: (seen.append(state()), after_step())
    before = state()
    fit(task, data, tmp_path, deterministic=True, epochs=1)
    assert set(seen) == {(True, True, ":4096:8")} and state() == before == (False, False, None)
    with pytest.raises(RuntimeError, match="nothing"), deterministic(True):
        raise RuntimeError("nothing")
    assert state() == before


def test_an_unknown_policy():
    with pytest.raises(ValueError, match="nonfinite: expected one of stop, skip, got 'ignore'"):
        zoo.TrainConfig(nonfinite="ignore")

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch

import zoo
from zoo.train import Stopped, checkpoint

MODEL = "effnet_cbam_test"
DROPS = {"drop_rate": 0.3}  # of the classifier; drop-path does nothing here: the toy network has no block with a skip to drop


def fit(data, out, model=MODEL, **how):
    torch.manual_seed(0)
    task = zoo.create_task(model, data, model_options=DROPS)
    config = zoo.TrainConfig(**{"epochs": 2, "batch_size": 16, "out": str(out), **how})
    return task, zoo.fit(task, data.train, data.eval, config, about={"data": data.name})


def lines(out):
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def weights(out):
    return hashlib.sha256((Path(out) / "model.safetensors").read_bytes()).hexdigest()


def test_a_run_is_a_timm_model_and_a_task_again(data, tmp_path):
    task, metrics = fit(data, tmp_path, epochs=12, batch_size=8)
    assert metrics["top1"] > 90
    assert [line["epoch"] for line in lines(tmp_path)] == list(range(1, 13)) and "confusion" in metrics
    assert lines(tmp_path)[-1] == {key: value for key, value in metrics.items() if key != "confusion"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == MODEL and config["label_names"] == ["dark", "bright"]
    assert config["zoo"]["data"] == "two kinds" and config["zoo"]["lr"] == 2e-3 and config["zoo"]["batch_size"] == 8
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert all(torch.equal(tensor, task.trainable_module.state_dict()[key]) for key, tensor in network.state_dict().items())
    assert network.pretrained_cfg["input_size"] == (3, 32, 32) and network.num_classes == 2
    run = zoo.load_run(tmp_path)
    assert zoo.evaluate(run.task, data.eval)["confusion"] == metrics["confusion"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.json", "metrics.jsonl", "model.safetensors"]


def test_the_same_seed_gives_the_same_weights_with_any_workers(data, tmp_path):
    fit(data, tmp_path / "one")
    fit(data, tmp_path / "two", workers=2, checkpoint_every=2)
    fit(data, tmp_path / "three", seed=1)
    assert weights(tmp_path / "one") == weights(tmp_path / "two") != weights(tmp_path / "three")


def test_recomputing_changes_no_result_and_can_change_between_two_runs(data, tmp_path):
    how = dict(model="effnet_bam_test", ema=0.9, precision="bf16", accumulate=2, batch_size=8)
    fit(data, tmp_path / "plain", **how)
    task, _ = fit(data, tmp_path / "again", recompute=True, **how)
    assert weights(tmp_path / "plain") == weights(tmp_path / "again")
    assert not any("Recomputed" in type(module).__name__ for module in task.modules())
    fit(data, tmp_path / "again", recompute=True, resume=True, **how)
    with pytest.raises(ValueError, match="recompute: the model has no EfficientNet block"):
        fit(data, tmp_path / "refused", model="resnet18", recompute=True)
    assert not (tmp_path / "refused").exists()


def test_the_shares_of_waiting_and_saving(data, tmp_path, monkeypatch):
    """Readers and disks that take their time are seen to."""

    def slow(index, read=data.train.read):
        time.sleep(0.005)
        return read(index)

    write = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *given: time.sleep(0.1) or write(*given))
    train = zoo.datasets.Split(48, slow, data.train.columns)
    task = zoo.create_task(MODEL, data)
    config = zoo.TrainConfig(epochs=2, batch_size=16, out=str(tmp_path), checkpoint_every=1)
    began = time.monotonic()
    metrics = zoo.fit(task, train, None, config)
    whole = time.monotonic() - began
    assert metrics["waiting"] * 48 / metrics["rows_per_second"] >= 48 * 0.005 and metrics["waiting"] < 1
    assert metrics["saving"] * whole >= 3 * 0.1 and metrics["saving"] < 1  # after the epoch before, and two of this
    assert zoo.fit(task, data.train, None, zoo.TrainConfig(epochs=1, batch_size=16))["saving"] == 0


def test_evaluation_does_not_change_the_training(data, tmp_path):
    fit(data, tmp_path / "with")
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data, model_options=DROPS)
    zoo.fit(task, data.train, None, zoo.TrainConfig(epochs=2, batch_size=16, out=str(tmp_path / "without")))
    assert weights(tmp_path / "with") == weights(tmp_path / "without")


def test_the_loss_in_the_log_is_that_of_the_training(data, tmp_path):
    """Not that of the evaluation, which has no smoothing and another name: with smoothing the training's has a floor."""
    _, measured = fit(data, tmp_path / "with")
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data, model_options=DROPS)
    bare = zoo.fit(task, data.train, None, zoo.TrainConfig(epochs=2, batch_size=16))
    assert measured["loss"] == bare["loss"] and "eval_loss" not in bare
    assert measured["eval_loss"] == pytest.approx(zoo.evaluate(task, data.eval)["loss"], rel=1e-6)
    assert abs(measured["eval_loss"] - measured["loss"]) > 1e-4


class StopAfter:
    """Raises a signal in this process when so many rows were read."""

    def __init__(self, read, rows, number):
        self.read, self.left, self.number = read, rows, number

    def __call__(self, index):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return self.read(index)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("rows", [20, 40, 60])
def test_a_stopped_run_goes_on_exactly(data, tmp_path, number, rows):
    how = dict(ema=0.9, accumulate=2, batch_size=8, clip_grad=1.0, opt="adamw")
    _, whole = fit(data, tmp_path / "whole", **how)
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data, model_options=DROPS)
    train = zoo.datasets.Split(48, StopAfter(data.train.read, rows, number), data.train.columns)
    config = zoo.TrainConfig(epochs=2, out=str(tmp_path / "cut"), **how)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]  # a test run in the background may ignore Ctrl-C
    with pytest.raises(Stopped, match=r"saved at step \d of 6 .*--resume") as stopped:
        zoo.fit(task, train, data.eval, config, about={"data": data.name})
    assert stopped.value.signal == number and [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    _, rest = fit(data, tmp_path / "cut", resume=True, **how)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    same = ("epoch", "step", "loss", "top1", "lr")
    assert [[line[key] for key in same] for line in lines(tmp_path / "cut")] == [
        [line[key] for key in same] for line in lines(tmp_path / "whole")
    ]
    states = [checkpoint.read(checkpoint.checkpoints(tmp_path / run / "checkpoints")[-1]) for run in ("whole", "cut")]
    for one, two in zip(*(sorted(tensors["ema"].items()) for tensors, _, _ in states), strict=True):
        assert torch.equal(one[1], two[1])


KILLED = """
import os, sys, torch, zoo
sys.path.insert(0, {here!r})
from conftest import read, read_eval
from zoo.datasets import Data, Split

def deadly(index, left=[{rows}]):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), 9)
    return read(index)

columns = ("image", "label", "text")
splits = Split(48, deadly, columns), Split(16, read_eval, columns)
data = Data("two kinds", *splits, classes=("dark", "bright"), img_size=32, augment="shift")
torch.manual_seed(0)
config = zoo.TrainConfig(epochs=2, batch_size=8, out={out!r}, checkpoint_every=2, resume={resume})
zoo.fit(zoo.create_task("effnet_cbam_test", data, model_options={{"drop_rate": 0.3}}), data.train, data.eval, config)
"""


def test_kill_minus_nine_and_resume_end_with_the_same_weights(data, tmp_path):
    def start(out, rows, resume):
        code = KILLED.format(here=str(Path(__file__).parent), rows=rows, out=str(tmp_path / out), resume=resume)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert start("whole", 10**6, False).returncode == 0
    assert start("cut", 35, False).returncode == -9
    assert start("cut", 30, True).returncode == -9
    last = start("cut", 10**6, True)
    assert last.returncode == 0, last.stderr
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert [line["step"] for line in lines(tmp_path / "cut")] == [6, 12]


def test_a_run_is_neither_overwritten_nor_resumed_by_mistake(data, tmp_path):
    fit(data, tmp_path)
    before = weights(tmp_path)
    with pytest.raises(ValueError, match="already holds a run; resume it .--resume., replace it .--overwrite."):
        fit(data, tmp_path)
    with pytest.raises(ValueError, match="other settings: lr was 0.002 and is 0.01"):
        fit(data, tmp_path, resume=True, lr=0.01)
    with pytest.raises(ValueError, match="data was 'two kinds' and is 'other'"):
        fit(dataclasses.replace(data, name="other"), tmp_path, resume=True)
    with pytest.raises(ValueError, match="model was 'effnet_cbam_test' and is 'effnet_se_test'"):
        fit(data, tmp_path, resume=True, model="effnet_se_test")
    assert weights(tmp_path) == before
    assert fit(data, tmp_path, resume=True)[1]["step"] == 6  # finished already: says so, changes nothing
    assert weights(tmp_path) == before
    (tmp_path / "notes.txt").write_text("mine")
    fit(data, tmp_path, overwrite=True, lr=0.01)
    assert weights(tmp_path) != before and (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="holds no run"):
        fit(data, tmp_path / "nothing", resume=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file; expected a directory"):
        fit(data, tmp_path / "file")


def test_what_replaces_an_exported_folder_leaves_none_of_its_files(data, tmp_path):
    fit(data, tmp_path / "out")
    config = tmp_path / "out" / "config.json"
    files = {"model.onnx": {}, "../mine.txt": {}}  # a name that leads elsewhere is nobody's to remove
    config.write_text(json.dumps(json.loads(config.read_text()) | {"runtime": {"files": files}}))
    (tmp_path / "out" / "model.onnx").write_bytes(b"of the export")
    (tmp_path / "mine.txt").write_text("mine")
    fit(data, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "model.onnx").exists() and (tmp_path / "mine.txt").read_text() == "mine"


def test_a_mistake_leaves_the_old_run_alone(data, tmp_path):
    fit(data, tmp_path)
    before = weights(tmp_path)
    with pytest.raises(ValueError, match="unknown optimizer"):
        fit(data, tmp_path, overwrite=True, opt="nope")
    assert weights(tmp_path) == before


def test_a_loss_that_is_no_number_stops_before_the_step(data, tmp_path):
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data, model_options=DROPS)
    task.batch_loss = lambda batch: task(batch["image"], batch["label"])["loss"] * float("nan")
    before = {key: tensor.clone() for key, tensor in task.trainable_module.named_parameters()}
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan; its rows are"):
        zoo.fit(task, data.train, data.eval, zoo.TrainConfig(epochs=1, out=str(tmp_path)))
    assert all(torch.equal(tensor, before[key]) for key, tensor in task.trainable_module.named_parameters())
    assert not checkpoint.checkpoints(tmp_path / "checkpoints")


def test_precision_and_columns(data, tmp_path):
    _, metrics = fit(data, tmp_path / "bf16", precision="bf16", epochs=1)
    assert metrics["loss"] > 0
    _, metrics = fit(data, tmp_path / "fp32", epochs=1)  # another precision in the same process
    assert metrics["loss"] > 0
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="fp16 needs a GPU"):
            fit(data, tmp_path / "fp16", precision="fp16")
        with pytest.raises(ValueError, match="no CUDA device"):
            fit(data, tmp_path / "cuda", device="cuda")
    with pytest.raises(ValueError, match="the train rows have text; this task also needs image, label"):
        zoo.fit(zoo.create_task(MODEL, data), zoo.datasets.Split(4, data.train.read, ("text",)))
    with pytest.raises(ValueError, match="the eval split has no rows"):
        zoo.fit(zoo.create_task(MODEL, data), data.train, data.eval.take([]))


def test_an_epoch_is_a_line_where_there_is_no_terminal(data, capsys):
    torch.manual_seed(0)
    zoo.fit(zoo.create_task(MODEL, data), data.train, data.eval, zoo.TrainConfig(epochs=2, batch_size=16))
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2 and printed[0].startswith("epoch 1/2  loss ") and "left" in printed[0] and "top1" in printed[1]


def test_nothing_is_lost_when_ctrl_c_comes_in_the_last_step_of_an_epoch(data, tmp_path):
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data, model_options=DROPS)
    after_step, count = task.after_step, [0]

    def stop_in_step_three():
        after_step()
        count[0] += 1
        if count[0] == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    task.after_step = stop_in_step_three
    with pytest.raises(Stopped, match="saved at step 3 of 6"):
        config = zoo.TrainConfig(epochs=2, batch_size=16, out=str(tmp_path))
        zoo.fit(task, data.train, data.eval, config, about={"data": data.name})
    assert not (tmp_path / "metrics.jsonl").exists()  # the epoch is measured when the run goes on: that may take longer than there is time
    fit(data, tmp_path, resume=True)
    fit(data, tmp_path / "whole")
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2]
    assert [line["loss"] for line in lines(tmp_path)] == [line["loss"] for line in lines(tmp_path / "whole")]


def test_two_processes_train_one_model(tmp_path):
    """Each takes half of every step's rows; one of them writes, and both end with the metrics."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "zoo", "train", "effnet_eca_test"]
    recipe = ["--data", "digits", "--epochs", "2", "--batch-size", "16", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, *command, *recipe], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "config.json").read_text())["zoo"]
    assert settings["processes"] == 2 and done.stderr.count("epoch 2/2") == 1
    assert lines(tmp_path)[-1]["step"] == 2 * (1437 // 32) and lines(tmp_path)[-1]["top1"] > 30


def test_without_a_seed_for_each_step_a_resumed_run_would_differ(data, tmp_path, monkeypatch):
    """The control of the tests above: what is dropped must be a function of the step, and they see it when it is not."""
    fit(data, tmp_path / "whole")
    monkeypatch.setattr("zoo.train.loop.seed_everything", lambda *key: None)
    fit(data, tmp_path / "unseeded")
    torch.manual_seed(0)
    task = zoo.create_task(MODEL, data, model_options=DROPS)
    train = zoo.datasets.Split(48, StopAfter(data.train.read, 60, signal.SIGINT), data.train.columns)
    config = zoo.TrainConfig(epochs=2, batch_size=16, out=str(tmp_path / "cut"))
    with pytest.raises(Stopped):
        zoo.fit(task, train, data.eval, config, about={"data": data.name})
    fit(data, tmp_path / "cut", resume=True)
    assert len({weights(tmp_path / run) for run in ("whole", "unseeded", "cut")}) == 3


@pytest.mark.long
def test_a_compiled_run_is_resumed_exactly_and_saved_as_any_other(data, tmp_path):
    how = dict(compile=True, ema=0.9, batch_size=8)
    task, _ = fit(data, tmp_path / "whole", **how)
    assert not any("_orig_mod" in name for name in task.state_dict())
    torch.manual_seed(0)
    stopping = zoo.create_task(MODEL, data, model_options=DROPS)
    train = zoo.datasets.Split(48, StopAfter(data.train.read, 60, signal.SIGINT), data.train.columns)
    with pytest.raises(Stopped):
        zoo.fit(stopping, train, data.eval, zoo.TrainConfig(epochs=2, out=str(tmp_path / "cut"), **how), about={"data": data.name})
    fit(data, tmp_path / "cut", resume=True, **how)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    plain, _ = fit(data, tmp_path / "plain", ema=0.9, batch_size=8)
    assert plain.state_dict().keys() == task.state_dict().keys()
    timm.create_model(f"local-dir:{tmp_path / 'whole'}", pretrained=True)


def test_compiling_needs_a_compiler_and_is_another_run(data, tmp_path, monkeypatch):
    fit(data, tmp_path / "plain")
    with pytest.raises(ValueError, match="compile was False and is True"):
        fit(data, tmp_path / "plain", compile=True, resume=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"compile: no C\+\+ compiler \(no-such-compiler\)"):
        fit(data, tmp_path / "refused", compile=True)
    with pytest.raises(ValueError, match="compile and recompute: give one"):
        fit(data, tmp_path / "refused", compile=True, recompute=True)
    assert not (tmp_path / "refused").exists()


def test_a_run_of_an_older_version_is_resumed(data, tmp_path):
    """It has no word for what came later, which was as it is by default now."""
    fit(data, tmp_path)
    state = checkpoint.checkpoints(tmp_path / "checkpoints")[-1] / "state.json"
    told = json.loads(state.read_text())
    del told["settings"]["compile"]
    state.write_text(json.dumps(told))
    assert fit(data, tmp_path, resume=True)[1]["step"] == 6

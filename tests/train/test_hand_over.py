"""A grafted network in the loop: the share is a function of the step, a stopped run ends like one that was not, what is left is pure."""

import hashlib
import os
import signal
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

import zoo
from zoo.backbones.graft import HandOver, hand_overs
from zoo.train import Stopped, checkpoint

DROPS = {"drop_rate": 0.3, "drop_path_rate": 0.2}


def grafted(name: str = "effnet_se_test", to: str = "cbam", **which) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2, **DROPS)
    zoo.swap_attention(model, to, **which)
    return model


def fit(data, out, model=None, train=None, **how):
    torch.manual_seed(0)
    model = grafted() if model is None else model
    config = zoo.TrainConfig(**{"epochs": 2, "batch_size": 16, "out": out and str(out), **how})
    return model, zoo.fit(zoo.create_task(model, data), train or data.train, data.eval, config, about={"data": data.name})


def weights(out) -> str:
    return hashlib.sha256((Path(out) / "model.safetensors").read_bytes()).hexdigest()


class StopAfter:
    """Raises a signal in this process when so many rows were read."""

    def __init__(self, read, rows):
        self.read, self.left = read, rows

    def __call__(self, index):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return self.read(index)


@pytest.fixture
def shares(monkeypatch):
    """Every (share, whether it was the running average's) that the loop sets."""
    seen = []

    def note(model, share):
        seen.append(share)
        zoo.backbones.graft.set_share(model, share)

    monkeypatch.setattr("zoo.train.loop.set_share", note)
    return seen


@pytest.mark.parametrize(
    "part, wanted",
    [
        (0.5, [1 / 3, 2 / 3, 1, 1, 1, 1]),  # of six steps
        (1.0, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1]),
        (0.0, [1] * 6),
        (0.1, [1] * 6),  # less than a step
    ],
)
def test_the_share_rises_with_the_steps(data, shares, part, wanted):
    fit(data, None, hand_over=part)
    assert shares == pytest.approx(wanted)


def test_a_network_without_a_hand_over_is_left_alone(data, shares, tmp_path):
    model, _ = fit(data, tmp_path, timm.create_model("effnet_cbam_test", num_classes=2))
    assert shares == [] and len(zoo.attention_slots(model)) == 5


@pytest.mark.parametrize("ema", [None, 0.9])
def test_what_is_left_is_the_new_network_alone(data, tmp_path, ema, capsys):
    model, metrics = fit(data, tmp_path, ema=ema)
    assert not any(isinstance(module, HandOver) for module in model.modules())
    assert "the new gates have taken over in 2 slots; the old ones are gone" in capsys.readouterr().err
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    plain = timm.create_model("effnet_se_test", num_classes=2, attn_stages={3: "cbam", 4: "cbam"})
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in plain.state_dict().items()}
    assert '"from"' not in (tmp_path / "config.json").read_text()
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in state.items())
    if ema is None:
        assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    run = zoo.load_run(tmp_path)
    assert zoo.evaluate(run.task, data.eval)["confusion"] == metrics["confusion"], "what was measured is what was saved"


def test_until_the_end_the_file_holds_both(data, tmp_path):
    """A killed run is whole at every epoch, and goes on."""
    train = zoo.datasets.Split(48, StopAfter(data.train.read, 60), data.train.columns)
    with pytest.raises(Stopped):
        fit(data, tmp_path, train=train)
    half = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert [float(gate.share) for _, gate in hand_overs(half)] == [1.0, 1.0]  # of the third step of six


@pytest.mark.parametrize("rows", [20, 40, 70])
@pytest.mark.parametrize("how", [{}, {"ema": 0.9, "clip_grad": 1.0, "accumulate": 2, "batch_size": 8}], ids=["plain", "ema"])
def test_a_stopped_run_goes_on_exactly(data, tmp_path, rows, how):
    how = {"hand_over": 0.8, **how}
    fit(data, tmp_path / "whole", **how)
    train = zoo.datasets.Split(48, StopAfter(data.train.read, rows), data.train.columns)
    with pytest.raises(Stopped, match=r"saved at step \d of 6"):
        fit(data, tmp_path / "cut", train=train, **how)
    fit(data, tmp_path / "cut", resume=True, **how)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    states = [checkpoint.read(checkpoint.checkpoints(tmp_path / run / "checkpoints")[-1])[0] for run in ("whole", "cut")]
    for kind in states[0]:
        assert all(torch.equal(value, states[1][kind][key]) for key, value in states[0][kind].items())


def test_with_drop_path_too(data, tmp_path):
    """Lite has no gate: the new ones take over from nothing, in blocks whose branch is sometimes dropped."""

    def model():
        return grafted("effnet_none_lite0", "eca", stages=[1, 2])

    fit(data, tmp_path / "whole", model(), epochs=1, ema=0.9)
    train = zoo.datasets.Split(48, StopAfter(data.train.read, 20), data.train.columns)
    with pytest.raises(Stopped):
        fit(data, tmp_path / "cut", model(), train, epochs=1, ema=0.9)
    fit(data, tmp_path / "cut", model(), epochs=1, ema=0.9, resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    again = timm.create_model(f"local-dir:{tmp_path / 'cut'}", pretrained=True)
    assert [(path, name) for path, name, _ in zoo.attention_slots(again)] == [(f"blocks.{i}.{j}.se", "eca") for i in (1, 2) for j in (0, 1)]


def test_a_finished_run_that_is_resumed_is_finished_again(data, tmp_path):
    """The last checkpoint is from before the old gates went; it fits the network as it was given."""
    fit(data, tmp_path)
    before = weights(tmp_path)
    model, metrics = fit(data, tmp_path, resume=True)
    assert weights(tmp_path) == before and metrics["step"] == 6 and [name for _, name, _ in zoo.attention_slots(model)] == ["cbam", "cbam"]


def test_killed_between_the_last_checkpoint_and_the_end(data, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.train.loop.finish_swap", lambda model: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(data, tmp_path / "cut", ema=0.9)
    monkeypatch.undo()
    fit(data, tmp_path / "cut", ema=0.9, resume=True)
    fit(data, tmp_path / "whole", ema=0.9)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_the_running_average_is_handed_over_in_step_with_it(data):
    """Averaged over the steps its share would lag behind, and what is evaluated would be another network."""
    seen = []
    task = zoo.create_task(grafted(), data)
    original = task.outputs

    def outputs(batch, model):
        seen.append([float(gate.share) for _, gate in hand_overs(model)])
        return original(batch, model)

    task.outputs = outputs
    zoo.fit(task, data.train, data.eval, zoo.TrainConfig(epochs=2, batch_size=16, ema=0.99, hand_over=0.9))
    assert seen == [pytest.approx([3 / 5.4] * 2), [1.0, 1.0]]


def test_an_earlier_hand_over_inside_stays_where_it_was(data, shares):
    model = grafted()
    zoo.set_share(model, 0.5)
    zoo.swap_attention(model, "eca")
    inner = [gate.old.share.clone() for _, gate in hand_overs(model)]
    held = [gate.old for _, gate in hand_overs(model)]
    fit(data, None, model)
    assert [float(gate.share) for gate in held] == [float(share) for share in inner] == [0.5, 0.5]
    assert [name for _, name, _ in zoo.attention_slots(model)] == ["eca", "eca"] and shares[-1] == 1


def test_a_grafted_tower_of_a_joint_embedding(data, tmp_path):
    def task():
        torch.manual_seed(0)
        made = zoo.create_task({"image": "effnet_se_test", "text": "bag"}, data)
        zoo.swap_attention(made.joint.towers["image"], "cbam")
        return made

    how = {"epochs": 2, "batch_size": 16, "ema": 0.9}
    zoo.fit(task(), data.train, data.eval, zoo.TrainConfig(out=str(tmp_path / "whole"), **how))
    train = zoo.datasets.Split(48, StopAfter(data.train.read, 40), data.train.columns)
    with pytest.raises(Stopped):
        zoo.fit(task(), train, data.eval, zoo.TrainConfig(out=str(tmp_path / "cut"), **how))
    zoo.fit(task(), data.train, data.eval, zoo.TrainConfig(out=str(tmp_path / "cut"), resume=True, **how))
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    tower = zoo.load_run(tmp_path / "cut").task.joint.towers["image"]
    assert [name for _, name, _ in zoo.attention_slots(tower)] == ["cbam", "cbam"]


def test_the_new_gates_parameters_are_spared_from_decay_where_they_ask_for_it():
    model = timm.create_model("test_byobnet", num_classes=2)
    zoo.swap_attention(model, "gct")
    asked = {f"{path}.new.{name}" for path, gate in hand_overs(model) for name in gate.new.no_weight_decay()}
    assert asked and asked <= zoo.train.optim.undecayed(model)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_share_of_the_steps_beyond_them(value):
    with pytest.raises(ValueError, match="hand_over: expected a share of all steps"):
        zoo.TrainConfig(hand_over=value)

import math

import pytest
import timm
import torch
from torch import nn

from zoo import TrainConfig
from zoo.train.optim import Schedule, create_optimizer, undecayed


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm2d(4)

    def no_weight_decay(self):
        return {"scale"}


def rates(steps=100, **how):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Schedule(optimizer, TrainConfig(lr=1.0, **how), steps)
    found = []
    for step in range(steps):
        schedule.set(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_cosine_rises_then_falls_to_nothing():
    found = rates()
    assert found[0] == pytest.approx(0.04) and max(found) == pytest.approx(1.0, abs=0.01)
    assert found.index(max(found)) == 20 and found == found[:1] + sorted(found[1:21]) + sorted(found[21:], reverse=True)
    for step in (20, 47, 80, 99):
        assert found[step] == pytest.approx(0.001 + 0.999 * (1 + math.cos(math.pi * (step - 20) / 80)) / 2, abs=1e-6)


def test_the_rate_is_a_function_of_the_step_alone():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    Schedule(optimizer, TrainConfig(lr=1.0), 100).set(63)
    assert optimizer.param_groups[0]["lr"] == rates()[63]


@pytest.mark.parametrize("sched", ["cosine", "tanh", "step", "constant"])
def test_every_schedule_stays_in_range(sched):
    assert all(0 < rate <= 1 for rate in rates(sched=sched))


def test_decay_spares_biases_norms_and_what_asks_for_it():
    holder = nn.Sequential(Part())
    assert undecayed(holder) == {"0.scale"}
    optimizer = create_optimizer(holder, TrainConfig(weight_decay=0.5, lr=1e-3))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(holder[0].linear.weight)}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(holder.parameters()))


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match="unknown optimizer 'adamww'; did you mean 'adamw'"):
        create_optimizer(nn.Linear(1, 1), TrainConfig(opt="adamww", lr=1e-3))
    with pytest.raises(ValueError, match="unknown schedule 'cos'"):
        rates(sched="cos")
    frozen = nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        create_optimizer(frozen, TrainConfig(lr=1e-3))


def test_a_part_learns_at_its_own_rate():
    holder = nn.ModuleDict({"tower": Part(), "towers": nn.Linear(4, 4)})
    config = TrainConfig(lr=1e-2, part_lr={"tower": 1e-4, "tower.linear": 1e-5})
    optimizer = create_optimizer(holder, config)
    schedule = Schedule(optimizer, config, 100)
    for step, factor in ((0, 0.04), (20, 1.0)):
        schedule.set(step)
        rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        assert rates[id(holder["towers"].weight)] == pytest.approx(1e-2 * factor)
        assert rates[id(holder["tower"].scale)] == pytest.approx(1e-4 * factor)
        assert rates[id(holder["tower"].linear.weight)] == pytest.approx(1e-5 * factor)
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert decay[id(holder["tower"].linear.weight)] == config.weight_decay and decay[id(holder["tower"].linear.bias)] == 0


def test_a_part_that_is_not_there():
    with pytest.raises(ValueError, match="no parameter's name begins with 'linaer'; did you mean 'linear"):
        create_optimizer(Part(), TrainConfig(lr=1e-2, part_lr={"linaer": 1e-4}))
    with pytest.raises(ValueError, match="part_lr: expected numbers above 0, got -1.0 for x"):
        TrainConfig(part_lr={"x": -1.0})


def test_layer_decay_is_timms():
    """Against timm's own grouping, parameter by parameter; what timm stops at, a part's own rate, is on top."""
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("effnet_cbam_test", num_classes=3)
    expected = {id(each): group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.5) for each in group["params"]}
    config = TrainConfig(lr=0.1, layer_decay=0.5)
    found = {id(each): group.get("lr_scale", 1.0) for group in create_optimizer(model, config).param_groups for each in group["params"]}
    assert found == pytest.approx(expected) and len(set(expected.values())) > 5
    assert found[id(model.classifier.weight)] == 1 and found[id(model.conv_stem.weight)] == min(expected.values()) < 0.1
    joint = nn.ModuleDict({"towers": nn.ModuleDict({"image": model, "text": nn.Linear(2, 2)})})
    config = TrainConfig(lr=0.1, layer_decay=0.5, part_lr={"towers.image": 0.01})
    both = {id(each): group.get("lr_scale", 1.0) for group in create_optimizer(joint, config).param_groups for each in group["params"]}
    assert {key: both[key] for key in expected} == pytest.approx({key: scale * 0.1 for key, scale in expected.items()})
    assert both[id(joint["towers"]["text"].weight)] == 1
    with pytest.raises(ValueError, match="Linear does not say what its layers are"):
        create_optimizer(nn.Linear(2, 2), config=TrainConfig(lr=0.1, layer_decay=0.5))

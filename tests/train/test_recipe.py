"""The defaults of `zoo train` work at the first try on small data from scratch, for every gate; timm's initialisation does not."""

import pytest
import timm

import zoo
from registry import ATTENTION
from zoo.train.randomness import seed_everything


def accuracy(network) -> float:
    data = zoo.open_data("digits")
    return zoo.fit(zoo.create_task(network, data), data.train, data.eval)["top1"]


def calm(gate: str) -> float:
    seed_everything(0)
    return accuracy(timm.create_model(f"effnet_{gate}_b0", num_classes=10, drop_path_rate=0.05))


@pytest.fixture(scope="module")
def baseline() -> float:
    return calm("se")


@pytest.mark.long
@pytest.mark.parametrize("gate", sorted(ATTENTION))
def test_every_gate_learns_digits(gate, baseline):
    found = baseline if gate == "se" else calm(gate)
    assert found >= 96 and found >= baseline - 2


@pytest.mark.long
def test_timms_start_does_not(baseline):
    seed_everything(0)
    found = accuracy(timm.create_model("efficientnet_b0", num_classes=10, drop_path_rate=0.05, se_layer="cbam"))
    assert found < baseline - 10

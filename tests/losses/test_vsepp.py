"""The max of hinges, in plain loops; and the collapse that its warm-up is for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.losses import triplet, vsepp


def by_hand(a, b, margin, hardest, ids):
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(len(x)):
            hinges = [max(0.0, margin + np.dot(x[i], y[j]) - np.dot(x[i], y[i])) for j in range(len(y)) if ids[j] != ids[i]] or [0.0]
            total += (hardest * max(hinges) + (1 - hardest) * np.mean(hinges)) / len(x)
    return total


@pytest.mark.parametrize("hardest", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 2, 1, 3], [4] * 7], ids=["unique", "some", "all"])
def test_against_loops(ids, hardest):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 7, 5))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    a_, b_, ids_ = torch.tensor(a), torch.tensor(b), torch.tensor(ids)
    value = vsepp(a_, b_, ids=ids_, margin=0.3, hardest=hardest)
    assert value.item() == pytest.approx(by_hand(a, b, 0.3, hardest, ids), rel=1e-12)
    assert vsepp(a_, b_, ids=ids_).item() == pytest.approx(by_hand(a, b, 0.2, 1.0, ids), rel=1e-12)


def test_without_the_hardest_it_is_triplet():
    a, b = F.normalize(torch.randn(2, 9, 6), dim=-1)
    assert torch.equal(vsepp(a, b, hardest=0.0), triplet(a, b))


def test_the_hardest_takes_over_in_the_first_fifth():
    assert [vsepp.during(progress)["hardest"] for progress in (0.0, 0.05, 0.1, 0.2, 0.7, 1.0)] == pytest.approx([0, 0.25, 0.5, 1, 1, 1])


def train(warm_up, steps=200):
    """Two small networks that see the same 256 things in two ways; the loss in the end, and the mean cosine between any two rows."""
    torch.manual_seed(0)
    things = torch.randn(256, 16)
    views = [torch.tanh(things @ torch.randn(16, 64)) for _ in range(2)]
    networks = [nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 32)) for _ in range(2)]
    optimizer = torch.optim.Adam([parameter for network in networks for parameter in network.parameters()], lr=0.01)
    for step in range(steps):
        a, b = (F.normalize(network(view), dim=-1) for network, view in zip(networks, views, strict=True))
        value = vsepp(a, b, **(vsepp.during(step / steps) if warm_up else {}))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return value.item(), (a @ a.T).mean().item()


def test_the_warm_up_is_what_keeps_rows_apart():
    """At a learning rate that is too large for the hardest negative alone: all in one point, each hinge the margin, twice 0.2."""
    value, cosine = train(warm_up=False)
    assert value == pytest.approx(0.4, abs=0.01) and cosine > 0.9
    value, cosine = train(warm_up=True)
    assert value < 0.05 and cosine < 0.2


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"margin": 2.5}, {"hardest": -0.1}, {"hardest": 1.5}])
def test_options_out_of_range(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"vsepp: {name} is a .*, got {value}"):
        vsepp(torch.eye(2), torch.eye(2), **wrong)

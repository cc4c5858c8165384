"""Fake quantization: the numbers of the formula, gradients that pass, and a network that is plain again afterwards."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from zoo.compress.quantize import fake


def test_weights_are_the_formula():
    weight = torch.randn(6, 4, 3, 3) * torch.logspace(-3, 3, 6).view(6, 1, 1, 1)
    found = fake.fake_weight(weight).double().numpy()
    w = weight.double().numpy()
    scale = np.abs(w).reshape(6, -1).max(1).reshape(6, 1, 1, 1) / 127
    wanted = np.round(w / scale) * scale
    assert np.abs(found - wanted).max(axis=(1, 2, 3)) == pytest.approx(0, abs=0) or (np.abs(found - wanted) <= scale * 1e-3).mean() > 0.99
    assert all(len(np.unique(np.round(found[channel] / scale[channel]))) <= 255 for channel in range(6))
    # a batch norm that scales whole channels commutes with it
    gain = torch.rand(6, 1, 1, 1) + 0.5
    assert torch.allclose(fake.fake_weight(weight * gain), fake.fake_weight(weight) * gain, rtol=1e-4, atol=0)


def test_gradients_pass_as_if_nothing_was_rounded():
    weight = torch.randn(4, 8, requires_grad=True)
    fake.fake_weight(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(4, 8))


def test_inputs_are_the_formula():
    layer = nn.Linear(5, 2)
    network = nn.Sequential(layer)
    fake.attach(network)
    x = torch.linspace(-1, 3, 20).view(4, 5)
    assert fake.watch(network, [x]) == ["0"]
    its = fake.ranges(network)["0"]
    assert (its.lo.item(), its.hi.item()) == (-1, 3)
    fake.quantize_only(network, {"0"})
    seen = {}
    layer.register_forward_hook(lambda layer, args, output: seen.update(x=args[0]))
    found = network(x)
    scale = 4 / 255
    zero = round(1 / scale)
    wanted = (np.clip(np.round(x.double().numpy() / scale) + zero, 0, 255) - zero) * scale
    assert np.abs(seen["x"].numpy() - wanted).max() < 1e-5
    assert torch.allclose(found, nn.functional.linear(seen["x"], fake.fake_weight(layer.weight), layer.bias))


def test_the_network_keeps_its_parameters_and_is_plain_again(network, rows):
    made = copy.deepcopy(network)
    before = {key: each.clone() for key, each in made.state_dict().items()}
    with torch.no_grad():
        wanted = made(rows[1][0])
        fake.attach(made)
        called = fake.watch(made, rows[0][:1])
        assert torch.equal(made(rows[1][0]), wanted)  # not yet
        fake.quantize_only(made, called)
        found = made(rows[1][0])
        assert not torch.equal(found, wanted) and torch.allclose(found, wanted, atol=0.3 * wanted.abs().max().item())
        assert before.keys() < made.state_dict().keys() and all(torch.equal(made.state_dict()[key], before[key]) for key in before)
        other = copy.deepcopy(made)
        fake.detach(made)
        assert torch.equal(made(rows[1][0]), wanted) and made.state_dict().keys() == before.keys()
        assert torch.equal(other(rows[1][0]), found)  # a copy is one of its own
    assert not any(part._forward_pre_hooks or part._forward_hooks or part._forward_hooks_always_called for part in made.modules())


def test_an_error_leaves_the_weights_in_place(network):
    made = copy.deepcopy(network)
    fake.attach(made)
    fake.quantize_only(made, fake.layers(made))
    with pytest.raises(RuntimeError):
        made(torch.randn(1, 5, 32, 32))
    assert not any("weight" in vars(layer) for layer in fake.layers(made).values())


def test_a_range_moves_towards_what_a_step_has_seen():
    network = nn.Sequential(nn.Linear(1, 1)).train()
    fake.attach(network)
    fake.watch(network, [torch.tensor([[1.0], [2.0]])])
    its = fake.ranges(network)["0"]
    assert its.lo.item() == 0  # zero is always in it
    network(torch.tensor([[-1.0], [4.0]]))
    network(torch.tensor([[-3.0], [0.0]]))  # a second micro-batch
    assert its.hi.item() == 2
    fake.step(network)
    assert its.hi.item() == pytest.approx(2.2) and its.lo.item() == pytest.approx(-0.3)
    network.eval()(torch.tensor([[99.0]]))
    fake.step(network)
    assert its.hi.item() == pytest.approx(2.2)

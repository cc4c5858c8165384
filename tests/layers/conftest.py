"""How the passes of zoo/layers are held to plain operations: which form ran, at which sizes, and one comparison of values and gradients."""

import pytest
import torch

import zoo.layers.attend as attend
import zoo.layers.axes as axes
import zoo.layers.gating as gating
import zoo.layers.narrow_conv as narrow_conv


@pytest.fixture
def called(monkeypatch):
    """The names of the direct forms that have run."""
    names: list[str] = []

    def call(function, *args):
        names.append(function.__name__)
        return real(function, *args)

    real = gating.call
    for module in (gating, axes, attend):
        monkeypatch.setattr(module, "call", call)
    return names


@pytest.fixture
def always(monkeypatch):
    """The direct form at any size, one sample a chunk."""
    monkeypatch.setattr(gating, "LEAST", 0)
    monkeypatch.setattr(axes, "LEAST", 0)
    monkeypatch.setattr(gating, "_CHUNK", 1)


@pytest.fixture
def plainly():
    """plainly(function, *args): the same call in plain operations."""

    def run(function, *args):
        with pytest.MonkeyPatch.context() as patch:
            for module in (gating, axes, attend, narrow_conv):
                patch.setattr(module, "direct", lambda x: False)
            return function(*args)

    return run


@pytest.fixture
def compare():
    """compare(ours, theirs, *inputs): the same value, memory order and gradients of every input, whatever the strides of what comes in."""

    def run(ours, theirs, *inputs, tol=1e-10):
        def leaves():
            return [value.detach().clone().requires_grad_() for value in inputs]

        here, there = leaves(), leaves()
        y, wanted = ours(*here), theirs(*there)
        assert torch.allclose(y, wanted, rtol=tol, atol=tol)
        assert y.dtype == wanted.dtype
        for order in (torch.contiguous_format, torch.channels_last):
            assert y.is_contiguous(memory_format=order) == here[0].is_contiguous(memory_format=order)
        other = torch.channels_last if y.is_contiguous() else torch.contiguous_format
        for given in (torch.randn_like(y), torch.randn_like(y, memory_format=other), torch.ones((), dtype=y.dtype).expand_as(y)):
            before = given.clone()
            for create_graph in (False, False, True):  # twice, and by the plain form
                found = torch.autograd.grad(y, here, given, retain_graph=True, create_graph=create_graph)
                right = torch.autograd.grad(wanted, there, given, retain_graph=True)
                for one, two in zip(found, right, strict=True):
                    size = max(1.0, two.abs().max().item())
                    assert torch.allclose(one, two, rtol=tol, atol=tol * size), (one - two).abs().max()
                assert torch.equal(given, before), "the gradient that comes in is somebody else's"
        for one, value in zip(here, inputs, strict=True):
            assert torch.equal(one, value), "the input is somebody else's"

    return run


def kinds(shape, dtype):
    """Pictures with all kinds of equal values."""
    x = torch.randn(shape, dtype=dtype)
    return {"random": x, "relu": x.relu(), "constant": torch.ones_like(x), "zero": torch.zeros_like(x), "steps": x.round()}


@pytest.fixture
def pictures():
    """pictures(shape, layout): random ones and ones with ties, in a memory order."""

    def make(shape, layout=torch.contiguous_format, dtype=torch.float64):
        return [x.contiguous(memory_format=layout) for x in kinds(shape, dtype).values()]

    return make

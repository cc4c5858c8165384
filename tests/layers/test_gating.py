"""The passes over x, chained as the gates chain them, against the plain equation: values, gradients, memory, and everything that must
fall back."""

import copy

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import zoo.layers.gating as gating
from registry import ATTENTION
from zoo.layers import mean_pixels, pool_channels, pool_pixels, scale, scale_both

LAYOUTS = (torch.contiguous_format, torch.channels_last)
SMALL = [(1, 8, 1, 1), (3, 8, 2, 2), (17, 8, 7, 7), (1, 8, 14, 9), (3, 4, 33, 40), (2, 1, 5, 5)]
LARGE = [(17, 320, 7, 7), (1, 2304, 14, 9), (3, 80, 33, 40), (17, 12, 40, 33), (9, 64, 33, 40)]
GATES = ("se", "eca", "cbam", "coord", "gc", "gca")
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
gates = pytest.mark.parametrize("name", GATES)


def squeeze(x, w):
    x, mean = mean_pixels(x)
    return scale(x, torch.sigmoid(w[:, None, None] * mean))


def plain_squeeze(x, w):
    return x * torch.sigmoid(w[:, None, None] * x.mean((2, 3), keepdim=True))


def both(x, w, k):
    x, mean, top = pool_pixels(x)
    gate = torch.sigmoid(w * (mean + 2 * top))[:, :, None, None]
    x, pooled, product = pool_channels(x, gate)
    spatial = torch.sigmoid((k[:, None, None] * pooled).sum(1, keepdim=True))
    return scale_both(x, gate, spatial, product)


def plain_both(x, w, k):
    x = x * torch.sigmoid(w * (x.mean((2, 3)) + 2 * x.amax((2, 3))))[:, :, None, None]
    return x * torch.sigmoid(k[0] * x.amax(1, keepdim=True) + k[1] * x.mean(1, keepdim=True))


def weights(channels, dtype=torch.float64):
    return torch.randn(channels, dtype=dtype), torch.randn(2, dtype=dtype)


@layouts
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_small_maps_a_sample_at_a_time(shape, layout, always, called, compare, pictures):
    w, k = weights(shape[1])
    for x in pictures(shape, layout):
        assert gating.samples(x) == 1
        compare(squeeze, plain_squeeze, x, w)
        compare(both, plain_both, x, w, k)
    assert set(called) == {"_MeanPixels", "_Scale", "_PoolPixels", "_PoolChannels", "_ScaleBoth"}


@layouts
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_large_maps(shape, layout, called, compare):
    w, k = weights(shape[1])
    x = torch.randn(shape, dtype=torch.float64).relu().contiguous(memory_format=layout)
    assert x.numel() >= gating.LEAST
    compare(squeeze, plain_squeeze, x, w)
    compare(both, plain_both, x, w, k)
    assert set(called) == {"_MeanPixels", "_Scale", "_PoolPixels", "_PoolChannels", "_ScaleBoth"}


def test_chunks_of_every_kind_are_reached():
    sizes = {shape: (gating.samples(torch.empty(shape, dtype=torch.float64)), shape[0]) for shape in LARGE}
    assert any(size >= batch for size, batch in sizes.values()), "the whole"
    assert any(1 < size < batch and batch % size for size, batch in sizes.values()), "several, the last one smaller"


@layouts
def test_float32(layout, called, compare):
    w, k = weights(320, torch.float32)
    x = torch.randn(17, 320, 7, 7).contiguous(memory_format=layout)
    compare(squeeze, plain_squeeze, x, w, tol=1e-4)
    compare(both, plain_both, x, w, k, tol=1e-4)
    assert "_Scale" in called and "_ScaleBoth" in called


@layouts
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("pixels", [31, 32, 33, 49, 63, 64])
def test_maximum_of_a_few_pixels(pixels, dim, layout):
    x = torch.randn(3, 700, pixels, 1).contiguous(memory_format=layout).flatten(2)
    assert torch.equal(gating._amax(x, dim), x.amax(dim))


@layouts
def test_numerically(layout, always, called):
    x = torch.randn(3, 4, 3, 2, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    w, k = (value.requires_grad_() for value in weights(4))
    for chain, inputs in ((squeeze, (x, w)), (both, (x, w, k))):
        assert torch.autograd.gradcheck(chain, inputs)
        assert torch.autograd.gradgradcheck(chain, inputs)
    assert set(called) == {"_MeanPixels", "_Scale", "_PoolPixels", "_PoolChannels", "_ScaleBoth"}


def test_small_maps_and_inference_take_the_plain_form_of_the_mean(called):
    w, _ = weights(8)
    squeeze(torch.randn(2, 8, 7, 7, dtype=torch.float64).requires_grad_(), w)
    with torch.no_grad():
        squeeze(torch.randn(17, 320, 7, 7, dtype=torch.float64), torch.randn(320, dtype=torch.float64))
    assert not called


@pytest.mark.parametrize(
    "needs", [(True, False, False), (False, True, True), (False, False, True), (False, True, False), (True, True, False)]
)
def test_only_some_need_a_gradient(needs, always, called):
    values = (torch.randn(3, 8, 7, 5, dtype=torch.float64), *weights(8))
    for chain, plain, count in ((squeeze, plain_squeeze, 2), (both, plain_both, 3)):
        if not any(needs[:count]):
            continue
        here, there = ([value.clone().requires_grad_(need) for value, need in zip(values, needs, strict=True)][:count] for _ in range(2))
        y = chain(*here)
        y.square().sum().backward()
        plain(*there).square().sum().backward()
        for one, two in zip(here, there, strict=True):
            assert (one.grad is None) == (two.grad is None)
            assert one.grad is None or torch.allclose(one.grad, two.grad)
    assert called


# The gates themselves


def gate_and_input(name, shape=(3, 32, 9, 7), dtype=torch.float64, layout=torch.contiguous_format):
    gate = ATTENTION[name](shape[1], rd_ratio=1 / 4).to(dtype)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return gate, torch.randn(shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()


def gradients(y, gate, x):
    parameters = [parameter for parameter in gate.parameters() if parameter.requires_grad]
    inputs = [*parameters, x] if x.requires_grad else parameters
    return torch.autograd.grad(y.square().sum(), inputs, retain_graph=True)


def same(ones, others, tol=1e-9):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert torch.allclose(one, other, rtol=tol, atol=tol * max(1.0, other.abs().max().item()))


@layouts
@gates
def test_gates_give_the_plain_gradients(name, layout, always, called, plainly):
    gate, x = gate_and_input(name, layout=layout)
    wanted = plainly(copy.deepcopy(gate), x)
    assert not called
    y = gate(x)
    assert called and torch.allclose(y, wanted)
    twin = copy.deepcopy(gate)
    right = gradients(plainly(twin, x), twin, x)
    same(gradients(y, gate, x), right)
    same(gradients(y, gate, x), right)  # and again


@gates
def test_one_gate_twice_in_a_graph(name, always, called, plainly):
    gate, x = gate_and_input(name)
    gate.eval()

    def net(x):
        once = gate(x)
        return gate(once + x) + once * x

    right = gradients(plainly(net, x), gate, x)
    assert not called
    same(gradients(net(x), gate, x), right)
    assert called


@gates
def test_frozen_gate(name, always, called, plainly):
    gate, x = gate_and_input(name)
    gate.requires_grad_(False).eval()
    same(gradients(gate(x), gate, x), gradients(plainly(gate, x), gate, x))
    assert called


@gates
def test_input_without_gradient(name, always, called, plainly):
    gate, x = gate_and_input(name)
    gate, x = gate.eval(), x.detach()
    same(gradients(gate(x), gate, x), gradients(plainly(gate, x), gate, x))
    assert called


@gates
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint(name, use_reentrant, always, called, plainly):
    gate, x = gate_and_input(name)
    gate.eval()
    right = gradients(plainly(gate, x), gate, x)
    y = checkpoint(gate, x * 1, use_reentrant=use_reentrant)
    y.square().sum().backward()
    same([*(parameter.grad for parameter in gate.parameters()), x.grad], right)
    assert called


scripting = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # torch scripts its own rules for the forward mode


@scripting
@gates
def test_function_transforms_fall_back(name, always, called, plainly):
    gate, x = gate_and_input(name)
    gate.requires_grad_(False).eval()
    x = x.detach()
    found = torch.func.grad(lambda x: gate(x).square().sum())(x)
    mapped = torch.func.vmap(gate)(x[:, None])
    _, moved = torch.func.jvp(gate, (x,), (torch.ones_like(x),))
    assert not called
    wanted = gradients(gate(x.requires_grad_()), gate, x)
    same([found], wanted)
    assert called and torch.allclose(mapped[:, 0], gate(x))
    step = 1e-6
    assert torch.allclose(moved, (gate(x + step) - gate(x - step)) / (2 * step), atol=1e-6)


@scripting
@gates
def test_forward_mode_falls_back(name, always, called):
    gate, x = gate_and_input(name)
    gate.eval()
    with torch.no_grad(), forward_ad.dual_level():
        moved = forward_ad.unpack_dual(gate(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    assert not called
    step = 1e-6
    with torch.no_grad():
        assert torch.allclose(moved, (gate(x + step) - gate(x - step)) / (2 * step), atol=1e-6)


@gates
def test_a_batch_of_gradients(name, always, called, plainly):
    """vmap over the backward pass of a graph that was made directly, as jacobians are computed."""
    gate, x = gate_and_input(name)
    gate.eval()
    given = torch.randn(4, *x.shape, dtype=x.dtype)
    inputs = [x, *gate.parameters()]
    found = torch.autograd.grad(gate(x), inputs, given, is_grads_batched=True)
    assert called
    same(found, torch.autograd.grad(plainly(gate, x), inputs, given, is_grads_batched=True))


@gates
def test_autocast_falls_back(name, always, called):
    gate, x = gate_and_input(name, dtype=torch.float32)
    gate.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = gate(x)
    assert not called
    wanted = gate(x)
    assert called and torch.allclose(y.float(), wanted, atol=0.1 * wanted.abs().max().item())
    with torch.autocast("cpu", dtype=torch.bfloat16):  # forward without, backward with
        found = gradients(wanted, gate, x)
    for one, other in zip(found, gradients(wanted, gate, x), strict=True):
        assert torch.allclose(one, other, atol=max(1e-3, 0.05 * other.abs().max().item()))


@gates
def test_second_derivative(name, always, called, plainly):
    gate, x = gate_and_input(name)
    gate.eval()

    def penalty(y):
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), [x, *gate.parameters()], allow_unused=True)

    found = penalty(gate(x))
    assert called
    same(found, penalty(plainly(gate, x)))


@gates
def test_a_hook_sees_the_gradient(name, always, called, plainly):
    gate, leaf = gate_and_input(name)
    gate.eval()
    right = gradients(plainly(lambda x: gate(x) + 2 * x, leaf), gate, leaf)[-1]
    seen, kept = [], []
    x = leaf * 1
    x.register_hook(lambda grad: seen.append(grad.clone()) or kept.append(grad))
    x.retain_grad()
    handle = gate.register_full_backward_hook(lambda *_: None)
    (gate(x) + 2 * x).backward(2 * (gate(x) + 2 * x).detach())
    handle.remove()
    assert called
    same([seen[0], kept[0], x.grad, leaf.grad], [right] * 4)


@layouts
@gates
def test_nothing_that_comes_in_is_changed(name, layout, always, called):
    gate, x = gate_and_input(name, layout=layout)
    gate.eval()
    y = gate(x)
    given = torch.randn_like(y)
    kept = [value.detach().clone() for value in (x, y, given)]
    y.backward(given)
    assert called
    for value, before in zip((x, y, given), kept, strict=True):
        assert torch.equal(value, before)
    assert x.grad.data_ptr() != given.data_ptr()


@gates
def test_an_input_changed_in_between_is_noticed(name, always):
    """Autograd's own protection must not be lost by saving what passed through."""
    gate, leaf = gate_and_input(name)
    x = leaf * 1
    y = gate(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified (by an )?inplace"):
        y.sum().backward()


@gates
def test_the_output_may_be_changed(name, always, plainly):
    gate, x = gate_and_input(name)
    gate.eval()
    same(gradients(gate(x).relu_(), gate, x), gradients(plainly(gate, x).relu(), gate, x))


@pytest.mark.parametrize("name, most", [("cbam", 1.1), ("coord", 1.2), ("se", 1.05), ("eca", 1.05), ("gc", 1.05), ("gca", 1.05)])
def test_kept_for_backward_is_little_more_than_the_input(name, most):
    """The few maps of one channel in `cbam` are seven: little beside 96 channels."""
    gate, x = gate_and_input(name, (4, 96, 40, 40), torch.float32)
    assert x.numel() >= gating.LEAST
    own = {parameter.untyped_storage().data_ptr() for parameter in gate.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # alive, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = gate(x)
    assert y.requires_grad
    total = sum(storage.nbytes() for storage in kept.values())
    assert x.untyped_storage().data_ptr() in kept or name == "gca"
    assert total <= most * x.nbytes, total / x.nbytes


def test_passing_through_needs_no_gradient_that_x_does_not_need(always):
    gate = torch.rand(2, 8, 1, 1).requires_grad_()
    same, pooled, _ = pool_channels(torch.randn(2, 8, 5, 5), gate)
    assert pooled.requires_grad and not same.requires_grad

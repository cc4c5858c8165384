"""The direct forms of the large passes against their plain forms: values, first and second derivatives, and every way autograd is used."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from zoo.layers import attend, axes, gating
from zoo.layers.attend import attend as attend_pixels
from zoo.layers.axes import pool_axes, scale_axes


class Both(nn.Module):
    """As CBAM uses them."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Linear(channels, channels)
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        x, mean, top = gating.pool_pixels(x)
        gate = torch.sigmoid(self.fc(mean) + self.fc(top))[:, :, None, None]
        x, pooled, product = gating.pool_channels(x, gate)
        return gating.scale_both(x, gate, torch.sigmoid(self.conv(pooled)), product)


class Means(nn.Module):
    """As squeeze-and-excitation uses them."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        x, mean = gating.mean_pixels(x)
        return gating.scale(x, torch.sigmoid(self.fc(mean)))


class Axes(nn.Module):
    """As coordinate attention uses them."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        height = x.shape[2]
        x, strips = pool_axes(x)
        gates = torch.sigmoid(self.fc(strips))
        return scale_axes(x, gates[:, :, :height], gates[:, :, height:].tanh())


class Attended(nn.Module):
    """As the global context uses them."""

    def __init__(self, channels: int, add: bool = False):
        super().__init__()
        self.mask = nn.Conv2d(channels, 1, 1)
        self.fc = nn.Conv2d(channels, channels, 1)
        self.add = add

    def forward(self, x):
        x, context = attend_pixels(x, self.mask.weight, self.mask.bias, alone=not self.add)
        return x + self.fc(context) if self.add else gating.scale(x, torch.sigmoid(self.fc(context)))


KINDS = {"both": Both, "means": Means, "axes": Axes, "attended": Attended, "added": partial(Attended, add=True)}
FUNCTIONS = {
    "both": {"_PoolPixelsBackward", "_PoolChannelsBackward", "_ScaleBothBackward"},
    "means": {"_MeanPixelsBackward", "_ScaleBackward"},
    "axes": {"_PoolAxesBackward", "_ScaleAxesBackward"},
    "attended": {"_AttendBackward", "_ScaleBackward"},
    "added": {"_AttendBackward"},
}
SHAPES = [(5, 6, 3, 4), (3, 6, 7, 7), (2, 5, 1, 1), (1, 4, 9, 12), (4, 3, 33, 2), (2, 3, 2, 40)]


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Small tensors take the direct path too, and two samples make a chunk."""
    for module in (gating, axes):
        monkeypatch.setattr(module, "LEAST", 0)
    monkeypatch.setattr(gating, "samples", lambda x: 2)
    for module in (axes, attend):
        monkeypatch.setattr(module, "samples", gating.samples)


@pytest.fixture
def plainly(monkeypatch):
    """plainly(f): what f() gives with every function in its plain form."""

    def run(call):
        with monkeypatch.context() as patch:
            for module in (gating, axes, attend):
                patch.setattr(module, "direct", lambda x: False)
            return call()

    return run


def nodes(y: torch.Tensor) -> set[str]:
    """Names of everything in the graph behind y."""
    seen, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
    return {node.name() for node in seen}


def picture(shape, layout=torch.contiguous_format, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()


def gradients(module, x, gy):
    parameters = list(module.parameters())
    y = module(x)
    return [y, *torch.autograd.grad(y, [x, *parameters], gy)]


def same(found, wanted, **tolerance):
    return all(torch.allclose(a, b, **tolerance) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_form(kind, shape, layout, plainly):
    module = KINDS[kind](shape[1]).double()
    x, gy = picture(shape, layout), torch.randn(shape, dtype=torch.float64)
    before = x.detach().clone(), gy.clone()
    found, wanted = gradients(module, x, gy), plainly(lambda: gradients(module, x, gy))
    assert same(found, wanted, rtol=0, atol=1e-12)
    assert FUNCTIONS[kind] <= nodes(found[0]) and not nodes(wanted[0]) & FUNCTIONS[kind], "the two paths, and not one of them twice"
    assert torch.equal(x, before[0]) and torch.equal(gy, before[1]), "neither the input nor the gradient that came is ours"
    assert found[0].is_contiguous(memory_format=layout)
    with torch.no_grad():
        assert torch.allclose(module(x), wanted[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_derivatives(kind):
    module = KINDS[kind](3).double()
    names, values = zip(*module.named_parameters(), strict=True)

    def run(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    inputs = (picture((3, 3, 3, 2)), *(value.detach().clone().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_create_graph(kind, plainly):
    """A gradient penalty; and the first derivatives are those without a graph."""
    module = KINDS[kind](4).double()
    x, gy = picture((3, 4, 5, 3)), torch.randn(3, 4, 5, 3, dtype=torch.float64)

    def penalty():
        first = torch.autograd.grad(module(x), [x, *module.parameters()], gy, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), [x, *module.parameters()], allow_unused=True)
        return [*first, *(each for each in second if each is not None)]

    assert same(penalty(), plainly(penalty), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_backward_twice(kind):
    """What is added in place is added to a tensor of this pass."""
    module = KINDS[kind](4).double()
    x, gy = picture((3, 4, 5, 3)), torch.randn(3, 4, 5, 3, dtype=torch.float64)
    y = module(x)
    first, second, third = (torch.autograd.grad(y, [x, *module.parameters()], gy, retain_graph=True) for _ in range(3))
    assert same(first, second, rtol=0, atol=0) and same(first, third, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_used_twice_and_x_used_elsewhere(kind, plainly):
    module = KINDS[kind](4).double()
    x = picture((3, 4, 5, 3))

    def run():
        z = x * 2
        seen = []
        z.register_hook(lambda gradient: seen.append(gradient.clone()))
        y = module(module(z)) + z  # a skip connection: its gradient is the very tensor that enters the gate
        return [*torch.autograd.grad(y.square().sum(), [x, *module.parameters()]), *seen]

    assert same(run(), plainly(run), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen(kind, plainly):
    """x without a gradient, parameters without one, and the accumulation into .grad."""
    module = KINDS[kind](4).double()
    x, gy = picture((3, 4, 5, 3)), torch.randn(3, 4, 5, 3, dtype=torch.float64)
    wanted = plainly(lambda: gradients(module, x, gy))

    found = torch.autograd.grad(module(x.detach()), list(module.parameters()), gy)
    assert same(found, wanted[2:], rtol=0, atol=1e-12)

    twin = copy.deepcopy(module).requires_grad_(False)
    (found,) = torch.autograd.grad(twin(x), [x], gy)
    assert torch.allclose(found, wanted[1], rtol=0, atol=1e-12)

    for _ in range(2):
        module(x).backward(gy)
    assert torch.allclose(x.grad, 2 * wanted[1], rtol=0, atol=1e-12)
    assert same([value.grad / 2 for value in module.parameters()], wanted[2:], rtol=0, atol=1e-12)
    assert not twin(x.detach()).requires_grad


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint(kind, reentrant):
    module = KINDS[kind](4).double()
    x, gy = picture((3, 4, 5, 3)), torch.randn(3, 4, 5, 3, dtype=torch.float64)
    wanted = gradients(module, x, gy)
    checkpoint(module, x, use_reentrant=reentrant).backward(gy)
    assert same([x.grad, *(value.grad for value in module.parameters())], wanted[1:], rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_unused_and_expanded(kind, plainly):
    """allow_unused; the gradient of a sum, which is one number spread out; of a slice; of a transposed memory order."""
    module = KINDS[kind](4).double()
    x, other = picture((3, 4, 5, 3)), picture((1,))
    assert torch.autograd.grad(module(x).sum(), [other], allow_unused=True) == (None,)
    for loss in (lambda y: y.sum(), lambda y: y[1:, 2].sum(), lambda y: (y.permute(0, 2, 3, 1).contiguous() ** 2).sum()):
        run = partial(lambda loss: torch.autograd.grad(loss(module(x)), [x, *module.parameters()]), loss)
        assert same(run(), plainly(run), rtol=0, atol=1e-12)


def test_equal_maxima_share():
    """Both maxima, as torch shares them: among ones, every pixel and every channel is the highest."""
    x, weights = torch.ones(3, 4, 3, 3, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    _, _, top = gating.pool_pixels(x)
    assert torch.allclose(torch.autograd.grad((top * weights).sum(), x)[0], (weights / 9)[:, :, None, None].expand_as(x))

    weights = torch.randn(3, 3, 3, dtype=torch.float64)
    _, pooled, _ = gating.pool_channels(x, torch.ones(3, 4, 1, 1, dtype=torch.float64))
    assert torch.allclose(torch.autograd.grad((pooled[:, 0] * weights).sum(), x)[0], (weights / 4)[:, None].expand_as(x))


@pytest.mark.parametrize("pixels", [31, 32, 33, 49, 63, 64, 65])
def test_overlapping_maxima(pixels):
    x = torch.randn(8, 300, pixels)
    assert x.numel() > 1 << 16
    assert torch.equal(gating._amax(x, 1), x.amax(1)) and torch.equal(gating._amax(x, 2), x.amax(2))
    x[3, 5, -1] = float("nan")
    assert gating._amax(x, 2)[3, 5].isnan() and gating._amax(x, 1)[3, -1].isnan()


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # torch.func.jvp scripts something of torch's own
@pytest.mark.parametrize("kind", KINDS)
def test_function_transforms(kind, plainly):
    module = KINDS[kind](4).double().requires_grad_(False)
    x = picture((3, 4, 5, 3)).detach()
    loss = lambda x: module(x).square().sum()  # noqa: E731
    wanted = plainly(lambda: torch.autograd.grad(loss(copied := x.clone().requires_grad_()), copied)[0])
    assert torch.allclose(torch.func.grad(loss)(x), wanted)
    each = torch.func.vmap(lambda one: module(one[None])[0])(x)
    assert torch.allclose(each, module(x))
    _, slope = torch.func.jvp(module, (x,), (torch.ones_like(x),))
    assert torch.allclose(slope.sum(), torch.autograd.functional.jvp(module, x, torch.ones_like(x))[1].sum())


@pytest.mark.parametrize("kind", KINDS)
def test_everything_else_is_plain(kind):
    module = KINDS[kind](4)
    x = picture((3, 4, 5, 3), dtype=torch.float32)
    assert FUNCTIONS[kind] <= nodes(module(x))
    strided = torch.randn(3, 4, 5, 6)[..., ::2].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = module(x)
    half = copy.deepcopy(module).bfloat16()(x.bfloat16())
    parameter = module(nn.Parameter(x.detach()))
    for y in (module(strided), autocast, half, parameter):
        assert not nodes(y) & FUNCTIONS[kind] and y.shape == x.shape
    assert module(x[:0]).shape == (0, 4, 5, 3)
    with torch.inference_mode():
        assert torch.allclose(module(x), module(x.detach().clone()))


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_x_and_small_things(kind, plainly):
    module = KINDS[kind](16)
    x = picture((8, 16, 32, 32), dtype=torch.float32)

    def kept():
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = module(x)
        return sum(sizes.values()) / (x.numel() * 4), y

    assert kept()[0] < 1.35
    if kind == "both":
        assert plainly(kept)[0] > 1.9, "so the line above can fail"


def test_saved_input_changed_in_place():
    module = Both(4)
    z = picture((3, 4, 5, 3), dtype=torch.float32) * 1
    y = module(z)
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified.*inplace"):
        y.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_output_changed_in_place(kind, plainly):
    module = KINDS[kind](4).double()
    x, gy = picture((3, 4, 5, 3)), torch.randn(3, 4, 5, 3, dtype=torch.float64)

    def run():
        return torch.autograd.grad(module(x).mul_(2).relu_(), [x, *module.parameters()], gy)

    assert same(run(), plainly(run), rtol=0, atol=1e-12)

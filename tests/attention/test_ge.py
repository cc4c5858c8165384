"""`ge` against the paper's equations in plain loops, for means and for convolutions, and as squeeze-and-excitation where it is that."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.attention import SE, GatherExcite

LEARNT = [{"mlp": True}, {"extent": 4, "mlp": True}, {"extent": 8, "params": True}, {"extent": 4, "params": True, "mlp": True}]
OPTIONS = [{}, {"extent": 2}, {"extent": 8}, *LEARNT]


def stirred(channels: int, **kwargs) -> GatherExcite:
    gate = GatherExcite(channels, **kwargs)
    for name, tensor in gate.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2)
        elif tensor.is_floating_point():
            nn.init.normal_(tensor)
    return gate


def excited(picture: np.ndarray, gathered: np.ndarray) -> np.ndarray:
    """Each pixel takes the gathered value of the cell that it falls into."""
    (height, width), (rows, columns) = picture.shape[2:], gathered.shape[2:]
    y = np.empty_like(picture)
    for i in range(height):
        for j in range(width):
            cell = gathered[:, :, i * rows // height, j * columns // width]
            y[:, :, i, j] = picture[:, :, i, j] / (1 + np.exp(-cell))
    return y


@pytest.mark.parametrize("extent", [0, 2, 4, 8])
@pytest.mark.parametrize("size", [(16, 16), (9, 5), (1, 1)])
def test_means(extent, size):
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    picture = x.numpy()
    if extent == 0:
        gathered = picture.mean((2, 3), keepdims=True)
    else:
        rows, columns = (math.ceil(n / extent) for n in size)
        gathered = np.empty((2, 8, rows, columns))
        for i in range(rows):
            for j in range(columns):
                near = [
                    picture[:, :, p, q]
                    for p in range(size[0])
                    for q in range(size[1])
                    if abs(p - i * extent) < extent and abs(q - j * extent) < extent
                ]
                gathered[:, :, i, j] = sum(near) / len(near)
    assert np.allclose(GatherExcite(8, extent=extent)(x).numpy(), excited(picture, gathered), rtol=0, atol=1e-12)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("extent", [2, 8])
def test_convolutions(train, extent):
    gate = stirred(8, extent=extent, params=True).double().train(train)
    value = {key: tensor.numpy().copy() for key, tensor in gate.state_dict().items()}
    x = torch.randn(3, 8, 17, 10, dtype=torch.float64)
    gathered = x.numpy()
    for stage in range(int(math.log2(extent))):
        kernel, bn = value[f"gather.{3 * stage}.weight"][:, 0], f"gather.{3 * stage + 1}."
        if stage:
            gathered = np.maximum(gathered, 0)
        padded = np.pad(gathered, ((0, 0), (0, 0), (1, 1), (1, 1)))
        rows, columns = (math.ceil(n / 2) for n in gathered.shape[2:])
        conv = np.empty((3, 8, rows, columns))
        for i in range(rows):
            for j in range(columns):
                conv[:, :, i, j] = (padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * kernel).sum((2, 3))
        mean, var = (conv.mean((0, 2, 3)), conv.var((0, 2, 3))) if train else (value[bn + "running_mean"], value[bn + "running_var"])
        scale = value[bn + "weight"] / np.sqrt(var + 1e-5)
        gathered = (conv - mean[:, None, None]) * scale[:, None, None] + value[bn + "bias"][:, None, None]
    assert np.allclose(gate(x).detach().numpy(), excited(x.numpy(), gathered), rtol=0, atol=1e-10)


def test_with_a_bottleneck_it_is_squeeze_and_excitation():
    ours, se = GatherExcite(32, mlp=True), SE(32)
    names = {"mlp.0": "conv_reduce", "mlp.2": "conv_expand"}
    ours.load_state_dict(
        {f"{here}.{key}": value for here, there in names.items() for key, value in getattr(se, there).state_dict().items()}
    )
    x = torch.randn(2, 32, 9, 7)
    assert torch.allclose(ours(x), se(x), atol=1e-6)


def test_the_default_has_no_parameters():
    assert not GatherExcite(24).state_dict() and not GatherExcite(24, extent=8).state_dict()


@pytest.mark.parametrize("options", LEARNT, ids=str)
def test_calm_is_one_half_until_one_step(options):
    x, target = torch.randn(2, 2, 24, 9, 7)
    gate = GatherExcite(24, calm=True, **options)
    assert torch.equal(gate.train()(x), x / 2) and torch.equal(gate.eval()(x), x / 2)
    assert not torch.allclose(GatherExcite(24, **options)(x), x / 2, atol=1e-3), "the papers' start is another"
    (gate.train()(x) * target).mean().backward()
    torch.optim.SGD(gate.parameters(), lr=1.0).step()
    ratio = gate.eval()(x) / x
    assert ratio.std() > 1e-5


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_kind_keeps_the_contract(options):
    gate = stirred(24, **options)
    assert gate.train()(torch.randn(1, 24, 1, 1)).isfinite().all()
    gate.eval()
    x = torch.randn(2, 24, 9, 7)
    wanted = gate(x)
    last = gate(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.allclose(last, wanted, atol=1e-6)
    traced, scripted = torch.fx.symbolic_trace(gate), torch.jit.script(gate)
    program = torch.export.export(gate, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)).module()
    for module in (traced, scripted, program):
        assert torch.allclose(module(x[:1]), wanted[:1], atol=1e-6)
    y = gate.half()((30 * x).half())
    assert y.dtype == torch.float16 and torch.allclose(y.float(), gate.float()(30 * x), rtol=0.05, atol=1)


@pytest.mark.parametrize("extent", [1, 3, 6, -2])
def test_odd_extents_are_refused(extent):
    with pytest.raises(ValueError, match=f"power of two.* got {extent}"):
        GatherExcite(24, extent=extent)


def test_a_learnt_gathering_needs_an_extent():
    with pytest.raises(ValueError, match="expected an extent such as 8"):
        GatherExcite(24, params=True)


def test_a_calm_gate_gathers_by_convolutions_and_starts_at_one_half():
    """Without parameters nothing can start constant: in the networks `ge` is theta, unless told otherwise."""
    x = torch.randn(2, 8, 9, 9)
    calm = GatherExcite(8, calm=True)
    torch.testing.assert_close(calm(x), x / 2)
    assert calm.extent == 8 and len(list(calm.parameters())) == 9  # three convolutions, each with its norm
    for plain in (GatherExcite(8), GatherExcite(8, calm=True, extent=0), GatherExcite(8, calm=True, params=False)):
        assert plain.extent == 0 and not list(plain.parameters())
        torch.testing.assert_close(plain(x), x * torch.sigmoid(x.mean((2, 3), keepdim=True)))

"""What every gate promises (registry.ATTENTION), held over the registry: a new entry is tested before anyone writes a test for it."""

import copy
import math
import pickle

import pytest
import torch
from timm.models._efficientnet_builder import efficientnet_init_weights
from torch import nn

import zoo  # noqa: F401  (fills the registry)
from registry import ATTENTION

NAMES = sorted(ATTENTION)
GATES = [name for name in NAMES if name != "none"]
LEARNT = [name for name in GATES if list(ATTENTION[name](8).parameters())]  # a gate without parameters has no start to choose
CHANNELS = (8, 16, 24, 40, 144, 672, 1152, 2304)  # of EfficientNet's blocks: multiples of 8, not of 16 or 32
MAPS = ((1, 1), (2, 2), (7, 7), (14, 9), (112, 112))
QUADRATIC = {"nl"}  # time grows with (H * W)^2: the largest map is tried at one width
CUBIC = {"cpca"}  # products of three maps: with weights at random inputs of 30 leave float16's range, with its own start they do not
CANCELLED = {"gc": ("mask.bias",), "gca": ("mask.bias",)}  # a softmax over pixels takes away what is added to all: only rounding is left
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

scripting = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # torch says so to everybody who scripts; timm's users do


def make(name: str, channels: int = 24, *, trained: bool = True, **kwargs) -> nn.Module:
    """A gate; `trained` ones have every parameter and running statistic moved away from where it started."""
    gate = ATTENTION[name](channels, **kwargs)
    if trained:
        stir(gate)
    return gate


def stir(gate: nn.Module) -> None:
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for buffer_name, buffer in gate.named_buffers():
            if buffer_name.endswith("running_var"):
                buffer.fill_(0.5)
            elif buffer.is_floating_point():
                buffer.fill_(0.1)


def picture(*shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype)


def multiplier(gate: nn.Module, shape=(4, 24, 6, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    """y / x for two unlike pictures, smallest value by smallest, since a gate may also shuffle the channels (`sa`)."""
    pictures = picture(*shape), 3 * picture(*shape).exp()
    pictures = [torch.where(x.abs() < 0.1, torch.ones(()), x) for x in pictures]
    with torch.no_grad():
        first, second = (gate(x).flatten(1).sort().values / x.flatten(1).sort().values for x in pictures)
    return first, second


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_any_width_and_map(name, train):
    for channels in CHANNELS:
        gate = make(name, channels, rd_ratio=0.25 / 6, act_layer=nn.SiLU).train(train)
        for height, width in MAPS:
            if channels * height * width > 2_000_000:
                continue
            if name in QUADRATIC and channels > 8 and height * width > 1000:
                continue
            for batch in (1, 2):
                x = picture(batch, channels, height, width)
                before = x.clone()
                y = gate(x)
                assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all(), (channels, height, width, batch)
                assert torch.equal(x, before), "the input is somebody else's (a skip connection)"
        assert all(value.isfinite().all() for value in gate.state_dict().values()), "running statistics of a single value"


@pytest.mark.parametrize("name", NAMES)
def test_one_value_trains(name):
    gate = make(name, 8).train()
    x = picture(1, 8, 1, 1).requires_grad_()
    gate(x).sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()
    assert all(parameter.grad.isfinite().all() for parameter in gate.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name, dtype):
    """Large inputs stay finite, keep their dtype and give what float64 gives; 112 x 112 x 30^2 does not fit into float16."""
    for channels, size in ((16, 56 if name in QUADRATIC else 112), (40, 7), (144, 1)):
        exact = make(name, channels, trained=False).double().eval()
        gate = copy.deepcopy(exact).to(dtype)
        x = (picture(2, channels, size, size) * 30).to(dtype)
        y = gate(x)
        assert y.dtype == dtype and y.isfinite().all()
        wanted = exact.to(dtype).double()(x.double())  # the same rounded weights
        error = (y.double() - wanted).abs().max() / wanted.abs().max()
        assert error < {torch.float32: 1e-5, torch.float16: 0.01, torch.bfloat16: 0.06}[dtype], error
        y = gate.train()(x)
        assert y.dtype == dtype and y.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_autocast(name, dtype):
    gate = make(name, trained=name not in CUBIC).train()
    x = (picture(2, 24, 7, 7) * 30).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = gate(x)
    assert y.isfinite().all()
    y.float().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_channels_last_stays(name, train):
    gate = make(name).train(train)
    x = picture(2, 24, 6, 5)
    wanted = copy.deepcopy(gate)(x)
    assert wanted.is_contiguous()
    y = gate(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    assert torch.allclose(y, wanted, atol=1e-6 * max(1.0, float(wanted.detach().abs().max())))
    gate = gate.to(memory_format=torch.channels_last)
    assert gate(x.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients(name, train):
    gate = make(name, 8, rd_ratio=0.5, act_layer=nn.SiLU).double().train(train)
    names, values = zip(*gate.named_parameters(), strict=True) if list(gate.parameters()) else ((), ())

    def run(x, *parameters):
        return torch.func.functional_call(gate, dict(zip(names, parameters, strict=True)), (x,))

    x = picture(2, 8, 3, 2, dtype=torch.float64).requires_grad_()
    values = [value.detach().clone().requires_grad_() for value in values]
    assert torch.autograd.gradcheck(run, (x, *values))
    if not train:  # in train mode a batch norm takes away the bias before it
        run(x, *values).square().sum().backward()
        for key, value in zip(names, values, strict=True):
            if key in CANCELLED.get(name, ()):
                assert value.grad.abs().max() < 1e-12
            else:
                assert value.grad is not None and value.grad.abs().max() > 1e-12, f"nothing depends on {key}"


@pytest.mark.parametrize("name", NAMES)
def test_compile(name):
    torch._dynamo.reset()
    gate = make(name).train()
    twin = copy.deepcopy(gate)
    compiled = torch.compile(gate, backend="aot_eager", fullgraph=True)
    for batch in (2, 3):
        x = picture(batch, 24, 6, 5)
        assert torch.allclose(compiled(x), twin(x), atol=1e-6)
    for key, value in twin.state_dict().items():
        assert torch.allclose(value, gate.state_dict()[key]), f"{key}: statistics must move under compile as well"


@pytest.mark.parametrize("name", NAMES)
def test_export_with_any_batch(name):
    gate = make(name).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(gate, (picture(2, 24, 6, 5),), dynamic_shapes=({0: batch},)).module()
    for size in (1, 5):
        x = picture(size, 24, 6, 5)
        assert torch.allclose(program(x), gate(x), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_onnx(name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'effnet-zoo[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install 'effnet-zoo[onnx]'")
    gate = make(name).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.onnx.export(gate, (picture(2, 24, 6, 5),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    for size in (1, 3):
        x = picture(size, 24, 6, 5)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = gate(x).detach()
        assert torch.allclose(torch.from_numpy(y), expected, atol=max(1e-5, 1e-6 * float(expected.abs().max())))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_fx(name, train):
    gate = make(name).train(train)
    twin = copy.deepcopy(gate)
    traced = torch.fx.symbolic_trace(gate)
    x = picture(2, 24, 6, 5)
    assert torch.equal(traced(x), twin(x))
    single = picture(1, 24, 1, 1)
    assert torch.equal(traced(single), twin(single)), "the trace must not hold one shape's branch"


@scripting
@pytest.mark.parametrize("name", NAMES)
def test_script(name):
    gate = make(name)
    scripted = torch.jit.script(copy.deepcopy(gate))
    for train in (True, False):
        for x in (picture(2, 24, 6, 5), picture(1, 24, 1, 1)):
            assert torch.allclose(scripted.train(train)(x), gate.train(train)(x), atol=1e-6)
    for key, value in gate.state_dict().items():
        assert torch.allclose(value, scripted.state_dict()[key])


@pytest.mark.parametrize("name", NAMES)
def test_copies(name):
    gate = make(name, calm=True).eval()
    x = picture(2, 24, 6, 5)
    for twin in (copy.deepcopy(gate), pickle.loads(pickle.dumps(gate))):
        assert torch.equal(twin(x), gate(x))
        twin.init_weights()
    other = make(name, calm=True).eval()
    other.load_state_dict(gate.state_dict())
    assert torch.equal(other(x), gate(x))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", LEARNT)
def test_calm_start_is_constant(name, train):
    gate = make(name, trained=False, calm=True).train(train)
    first, second = multiplier(gate)
    assert torch.allclose(first, second, atol=1e-6)
    assert first.isfinite().all() and first.gt(0.05).all(), "constant, and still letting the signal through"


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", GATES)
def test_trained_it_reads_its_input(name, train):
    """Also the proof that the test above can fail. (Some papers start constant themselves: GCT, SGE, SA, SRM.)"""
    gate = make(name).train(train)
    first, second = multiplier(gate)
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("name", LEARNT)
def test_calm_is_not_asleep(name):
    gate = make(name, trained=False, calm=True).train()
    optimizer = torch.optim.SGD(gate.parameters(), lr=1.0)
    (gate(picture(4, 24, 6, 5)) * picture(4, 24, 6, 5)).mean().backward()
    optimizer.step()
    first, second = multiplier(gate.eval())
    assert (first - second).abs().max() > 1e-5, "one step must wake it"


@pytest.mark.parametrize("calm", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_init_weights_restores(name, calm):
    gate, fresh = make(name, calm=calm), make(name, trained=False, calm=calm)
    for each in (gate, fresh):
        torch.manual_seed(5)
        each.init_weights()
    assert list(gate.state_dict()) == list(fresh.state_dict())
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, gate.state_dict()[key]), key
    other = make(name, trained=False, calm=calm)  # built with other random numbers
    if any(not torch.equal(a, b) for a, b in zip(other.parameters(), fresh.parameters(), strict=True)):  # not SGE, SA, SRM, GCT
        fresh.init_weights()
        assert any(not torch.equal(a, b) for a, b in zip(gate.parameters(), fresh.parameters(), strict=True)), "drawn, not kept"


@pytest.mark.parametrize("calm", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_constructor_starts_where_init_weights_does(name, calm):
    """Same spread before and after, for every tensor: construction must not leave another start behind."""
    gate = make(name, 144, trained=False, calm=calm)
    built = {key: value.clone() for key, value in gate.state_dict().items()}
    gate.init_weights()
    for key, value in gate.state_dict().items():
        value, before = value.double(), built[key].double()
        if value.numel() > 1000:
            assert math.isclose(value.std(), before.std(), rel_tol=0.1), key
        elif value.numel() > 1 and value.unique().numel() == 1:
            assert torch.equal(value, before), key


@pytest.mark.parametrize("name", NAMES)
def test_timms_initialisation_calls_ours_last(name, monkeypatch):
    gate = make(name, trained=False)
    stack = nn.Sequential(nn.Conv2d(3, 24, 1), gate)
    calls = []

    def init_weights(self):
        calls.append(self)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 7.0)

    monkeypatch.setattr(type(gate), "init_weights", init_weights)
    efficientnet_init_weights(stack)
    assert calls == [gate] and all((parameter == 7).all() for parameter in gate.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_device_and_dtype(name):
    gate = make(name, trained=False, device="meta", dtype=torch.bfloat16)
    values = list(gate.state_dict().values())
    assert all(value.is_meta and (value.dtype == torch.bfloat16 or not value.is_floating_point()) for value in values)
    assert gate(torch.empty(2, 24, 6, 5, device="meta", dtype=torch.bfloat16)).shape == (2, 24, 6, 5)
    real = gate.to_empty(device="cpu").float()
    real.init_weights()
    assert all(value.isfinite().all() for value in real.state_dict().values()), "a meta network gets its numbers from init_weights"


@pytest.mark.parametrize("name", NAMES)
def test_no_weight_decay_names_parameters(name):
    gate = make(name, trained=False)
    if hasattr(gate, "no_weight_decay"):
        assert set(gate.no_weight_decay()) <= {key for key, _ in gate.named_parameters()}
    gains = {key for key, value in gate.named_parameters() if value.ndim == 4 and value.shape[0] == value.shape[2] == value.shape[3] == 1}
    gains -= {key for key, _ in gate.named_parameters() if gate.get_submodule(key.rpartition(".")[0]).__class__ is nn.Conv2d}
    assert not gains or gains <= set(gate.no_weight_decay()), "timm would decay parameters of shape (1, C, 1, 1)"


@pytest.mark.parametrize("name", NAMES)
def test_words(name):
    """The class says what it is; the registered name is the file's."""
    gate = ATTENTION[name]
    assert gate.__module__ == f"zoo.attention.{name}"
    assert gate.__doc__ and len(gate.__doc__) > 40
    assert gate.attends in ("channel", "spatial", "both") or (name == "none" and gate.attends == "nothing")


def test_none_is_the_only_identity():
    x = picture(2, 24, 6, 5)
    assert [name for name in NAMES if torch.equal(make(name)(x), x)] == ["none"]
    assert isinstance(make("none"), nn.Identity)

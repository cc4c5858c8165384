"""onnx-int8: U8 activations, S8 weights a channel, really in the file; small, and as good; layers stay in float when they must."""

import numpy as np
import pytest
import timm
import torch

onnx = pytest.importorskip("onnx", reason="pip install 'effnet-zoo[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'effnet-zoo[onnx]'")

from zoo.compress.quantize import TARGETS, search  # noqa: E402
from zoo.compress.quantize.sensitivity import outputs, sqnr  # noqa: E402
from zoo.deploy import RUNTIMES  # noqa: E402

from .conftest import HARD, NAMES  # noqa: E402

TARGET, RUNTIME = TARGETS["onnx-int8"], RUNTIMES["onnx"]
U8, S8 = onnx.TensorProto.UINT8, onnx.TensorProto.INT8


@pytest.fixture(scope="module")
def written(network, rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    TARGET.write(network, rows[0], path, **NAMES)
    return path


def test_as_good_for_any_number_of_rows(network, digits, written, within):
    run = RUNTIME.open(written, threads=1)
    within(run, digits, network, 1)
    assert [run(digits[0][:rows].numpy()).shape for rows in (1, 3)] == [(1, 10), (3, 10)]
    assert RUNTIME.about(written) == NAMES["about"] and list(written.parent.iterdir()) == [written]


def kinds(path):
    """Of every QuantizeLinear its type; of every weight of a convolution its type and how many scales it has."""
    graph = onnx.load(path).graph
    tensors = {each.name: each for each in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    activations = {tensors[node.input[2]].data_type for node in graph.node if node.op_type == "QuantizeLinear"}
    weights = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            read = maker.get(node.input[1])
            stored = tensors[node.input[1] if read is None else read.input[0]]
            weights[stored.name] = (stored.data_type, stored.dims[0], None if read is None else int(np.prod(tensors[read.input[1]].dims)))
    return activations, weights


def test_unsigned_activations_and_a_scale_a_channel(written):
    activations, weights = kinds(written)
    assert activations == {U8} and len(weights) == 18
    assert all(kind == S8 and scales == channels for kind, channels, scales in weights.values()), weights


@torch.no_grad()
def test_the_hard_layer_stays_in_float(hard, rows, tmp_path):
    path = tmp_path / "model.onnx"
    wanted = outputs(hard, rows[1])
    asked = []

    def write(keep):
        asked.append(keep)
        TARGET.write(hard, rows[0], path, **NAMES, keep=keep)
        return RUNTIME.open(path, threads=1)

    found = search(write, hard, rows[0], rows[1])
    assert found.passed and [layer.name for layer in found if layer.kept] == [HARD[1]] and len(asked) == 2
    all_int8 = write([])
    assert sqnr(wanted, torch.cat([torch.from_numpy(all_int8(batch.numpy())) for batch in rows[1]])) < found.sqnr - 10
    write([HARD[1]])
    floats = [name for name, (kind, _, _) in kinds(path)[1].items() if kind != S8]
    assert sorted(name.partition(".weight")[0] for name in floats) == sorted(HARD)  # and the layer that makes what it reads


@pytest.mark.parametrize("gate", ["none", "cbam"])
def test_a_lite_network_is_a_quarter_of_the_size(tmp_path, gate):
    network = timm.create_model(f"effnet_{gate}_lite0", num_classes=10).eval()
    TARGET.write(network, [torch.randn(2, 3, 32, 32)], tmp_path / "model.onnx", **NAMES)
    assert (tmp_path / "model.onnx").stat().st_size < 0.28 * 4 * sum(each.numel() for each in network.parameters())


@torch.no_grad()
def test_group_norms_stay_in_float(tmp_path):
    torch.manual_seed(0)
    network, x = timm.create_model("effnet_scsa_test", num_classes=10).eval(), torch.randn(8, 3, 64, 64)
    TARGET.write(network, [x], tmp_path / "model.onnx", **NAMES)
    found = RUNTIME.open(tmp_path / "model.onnx", threads=1)(x.numpy())
    assert sqnr(network(x), torch.from_numpy(found)) > 15

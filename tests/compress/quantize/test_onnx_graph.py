"""The graph for int8 is the same function, in operators that ONNX Runtime computes in int8."""

import numpy as np
import pytest
import timm
import torch

onnx = pytest.importorskip("onnx", reason="pip install 'effnet-zoo[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'effnet-zoo[onnx]'")

from zoo.compress.quantize import TARGETS, onnx_graph  # noqa: E402
from zoo.deploy import RUNTIMES  # noqa: E402

from .conftest import NAMES  # noqa: E402

TARGET, RUNTIME = TARGETS["onnx-int8"], RUNTIMES["onnx"]


def made_by(graph, name):
    """The operators that a value comes from, through what only changes its shape."""
    maker = {output: node for node in graph.node for output in node.output}
    node = maker.get(name)
    while node is not None and node.op_type in ("Squeeze", "Unsqueeze", "Reshape"):
        node = maker.get(node.input[0])
    return "" if node is None else node.op_type


@pytest.mark.parametrize("gate", ["se", "eca", "cbam", "scse", "coord"])
def test_a_fitted_graph_is_the_same_function(gate):
    torch.manual_seed(0)
    network, x = timm.create_model(f"effnet_{gate}_test", num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # a calm CBAM's is zero
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    proto = RUNTIME.build(network, x)
    before = [node.op_type for node in proto.graph.node]
    onnx_graph.fit(proto)
    onnx.checker.check_model(proto, full_check=True)
    after = [node.op_type for node in proto.graph.node]
    assert "ReduceMean" in before and "GlobalAveragePool" in after
    assert ("ReduceMean" in after) == (gate == "coord")  # rows and columns apart stay what they are
    assert ("DepthToSpace" in after) == (gate == "cbam") and len(after) > len(before) * (gate == "cbam")
    run = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = network(x)
    for rows in (1, 2):
        (found,) = run.run(None, {"image": x[:rows].numpy()})
        assert np.allclose(found, wanted[:rows].numpy(), atol=1e-5 * float(wanted.abs().max()))


def test_a_reduction_of_something_else_stays_what_it_is():
    class Odd(torch.nn.Module):
        def forward(self, x):
            return x.mean((1, 2)).amax(1) + x.flatten(2).mean(2).amax(1) + x.amax((1, 2, 3))

    proto = RUNTIME.build(Odd(), torch.randn(2, 3, 8, 8))
    before = [node.op_type for node in proto.graph.node]
    onnx_graph.fit(proto)
    assert [node.op_type for node in proto.graph.node] == before


@torch.no_grad()
def test_weights_that_are_used_twice_stay_what_they_are():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 1, 7, padding=3)

        def forward(self, x):
            x = x.relu()
            return self.conv(x).mean((1, 2, 3)) + self.conv(x[:, :, ::8, ::8]).mean((1, 2, 3))

    network, x = Twice().eval(), torch.randn(2, 2, 32, 32)
    proto = RUNTIME.build(network, x)
    onnx_graph.fit(proto)
    (found,) = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"image": x.numpy()})
    assert np.allclose(found, network(x).numpy(), atol=1e-5)


def test_nothing_is_reduced_in_float(rows, tmp_path):
    """Before a reduction in float ONNX Runtime turns a map out of int8 and out of the layout of its convolutions."""
    network = timm.create_model("effnet_cbam_test", num_classes=10).eval()
    TARGET.write(network, rows[0], tmp_path / "model.onnx", **NAMES)
    graph = onnx.load(tmp_path / "model.onnx").graph
    maxima = [node for node in graph.node if node.op_type == "ReduceMax"]
    assert maxima and {made_by(graph, node.input[0]) for node in maxima} == {"QuantizeLinear"}
    assert {node.op_type for node in graph.node if node.op_type.startswith("Reduce")} == {"ReduceMax", "ReduceSum"}

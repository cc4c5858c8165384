"""int8 for ONNX Runtime: static, as pairs of QuantizeLinear and DequantizeLinear (QDQ), U8 activations, S8 weights a channel.

S8 activations would be slower than floats, and one scale for a whole weight destroys the accuracy. All operators are quantized, not the
convolutions alone, so that ranges meet without a way through float between them: faster on a lite0 and an SE network, and as true to float.
"""

import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...deploy.runtimes import onnx as runtime
from ...files import write_whole
from ...progress import tracked

RUNTIME = "onnx"
OPTIONS: dict[str, Any] = {}
KEEPS = True
_REDUCTIONS = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "MaxPool"}
_WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def check() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        from onnxruntime import quantization  # noqa: F401
    except ImportError as error:
        raise ImportError("int8 for ONNX Runtime is made by onnxruntime and onnx: pip install 'effnet-zoo[onnx]'") from error


def _around(graph: Any, keep: Sequence[str]) -> list[str]:
    """Names of the nodes that stay in float for a layer to: its own, and those that make what it reads, up to the layers before it.

    A tensor is quantized for all who touch it, so that the layer alone would still read what was rounded.
    """
    maker = {name: node for node in graph.node for name in node.output}
    waiting = deque(node for node in graph.node if {f"{path}.weight" for path in keep} & set(node.input))
    names: dict[str, None] = {}
    own = [node.name for node in waiting]
    while waiting:
        node = waiting.popleft()
        if node.name in names:
            continue
        names[node.name] = None
        if node.name in own or node.op_type not in (*_WEIGHTED, "Add", "ReduceMean", "GlobalAveragePool"):
            waiting.extend(maker[name] for name in node.input if name in maker)
    return list(names)


def pooled(proto: Any) -> None:
    """Means and maxima over all pixels as the pooling that they are, and means over channels as a convolution.

    torch writes general reductions, before which ONNX Runtime takes a map out of int8 and out of the layout of its convolutions; these it
    computes as they are. In float they would gain nothing.
    """
    from onnx import helper, numpy_helper

    graph = proto.graph
    shapes = {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in graph.value_info}
    constants = {each.name: each for each in graph.initializer}
    nodes = []
    for node in graph.node:
        shape = shapes.get(node.input[0], []) if node.op_type in _REDUCTIONS else []
        if len(shape) != 4 or not all(shape[1:]) or len(node.input) < 2 or node.input[1] not in constants:
            nodes.append(node)
            continue
        axes = sorted(int(axis) % 4 for axis in numpy_helper.to_array(constants[node.input[1]]))
        keep = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
        x, y, name = node.input[0], node.output[0], node.name
        if axes == [2, 3]:
            out = y if keep else f"{y}_pooled"
            how: dict[str, Any] = {"kernel_shape": shape[2:]} if node.op_type == "ReduceMax" else {}
            nodes.append(helper.make_node(_REDUCTIONS[node.op_type], [x], [out], name=name, **how))
            if not keep:
                nodes.append(helper.make_node("Squeeze", [out, node.input[1]], [y], name=f"{name}_squeeze"))
        elif axes == [1] and keep and node.op_type == "ReduceMean":
            weight = f"mean_of_{shape[1]}_channels"
            if weight not in constants:
                constants[weight] = numpy_helper.from_array(np.full((1, shape[1], 1, 1), 1 / shape[1], dtype=np.float32), weight)
                graph.initializer.append(constants[weight])
            nodes.append(helper.make_node("Conv", [x, weight], [y], name=name))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _maxima(proto: Any) -> None:
    """The largest of some rounded values is the rounded largest: taken before they go back to float, not behind."""
    import onnx

    graph = proto.graph
    maker = {name: node for node in graph.node for name in node.output}
    nodes = []
    for node in graph.node:
        back = maker.get(node.input[0]) if node.op_type == "ReduceMax" else None
        if back is None or back.op_type != "DequantizeLinear":
            nodes.append(node)
            continue
        y = node.output[0]
        node.input[0], node.output[0] = back.input[0], f"{y}_int8"
        nodes.append(node)
        nodes.append(onnx.helper.make_node("DequantizeLinear", [f"{y}_int8", *back.input[1:]], [y], name=f"{node.name}_float"))
    del graph.node[:]
    graph.node.extend(nodes)


def write(
    network: nn.Module, batches: Sequence[Tensor], path: Path, *, names: tuple[str, str], about: str, keep: Sequence[str] = ()
) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

    class Rows(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(tracked(batches, len(batches), "calibrate"))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {names[0]: batch.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, done = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "done"))
        proto = runtime.build(network, batches[0][:2], names=names, about=about)
        pooled(proto)
        plain.write_bytes(proto.SerializeToString())
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)  # torch has written the shapes; CBAM's it cannot infer
        quantize_static(
            str(ready),
            str(done),
            Rows(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_around(onnx.load(ready).graph, keep),
        )
        proto = onnx.load(done)
    _maxima(proto)
    for told in (*proto.graph.node, *proto.graph.value_info, proto.graph):  # where in torch each came from: a tenth of a small file
        del told.metadata_props[:]
    write_whole(path, proto.SerializeToString())

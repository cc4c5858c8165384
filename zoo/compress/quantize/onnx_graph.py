"""An ONNX graph for int8: before quantization in operators that ONNX Runtime computes in int8, after it without detours and long names."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...layers import BLOCK, in_blocks


def fit(proto: Any) -> None:
    """The same function in operators that ONNX Runtime computes in int8 and in the layout of its convolutions.

    A mean or maximum over all pixels becomes a pooling, a mean over channels a convolution: before the general reductions that torch writes
    a map is turned out of both. A convolution of few channels to one becomes one over blocks of 4 x 4 pixels (`zoo/layers/narrow_conv.py`).
    In float this would gain next to nothing.
    """
    from onnx import numpy_helper

    graph = proto.graph
    shapes = {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in graph.value_info}
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    own = dict(constants)
    nodes = []
    for node in graph.node:
        shape = shapes.get(node.input[0], []) if len(node.input) > 1 and node.input[1] in constants else []
        known = len(shape) == 4 and all(shape[1:]) and (node.op_type != "Conv" or all(readers[name] == 1 for name in node.input[1:]))
        nodes.extend((_FITTED[node.op_type](node, shape, own) if known and node.op_type in _FITTED else None) or [node])
    del graph.node[:]
    graph.node.extend(nodes)
    changed = [name for name, value in own.items() if value is not constants.get(name)]
    for part in (graph.initializer, graph.value_info):
        for each in [each for each in part if each.name in changed]:
            part.remove(each)
    read = {name for node in nodes for name in node.input}
    graph.initializer.extend(numpy_helper.from_array(own[name], name) for name in changed)
    for each in [each for each in graph.initializer if each.name not in read]:
        graph.initializer.remove(each)


def _as_pooling(node: Any, shape: Sequence[int], constants: dict[str, np.ndarray]) -> list[Any] | None:
    from onnx.helper import get_node_attr_value, make_node

    (x, over), (y,), name = node.input, node.output, node.name
    axes = sorted(int(axis) % 4 for axis in constants[over])
    keep = get_node_attr_value(node, "keepdims") if any(each.name == "keepdims" for each in node.attribute) else 1
    if axes == [2, 3]:
        out = y if keep else f"{y}_pooled"
        pool = (
            make_node("GlobalAveragePool", [x], [out], name=name)
            if node.op_type == "ReduceMean"
            else make_node("MaxPool", [x], [out], name=name, kernel_shape=shape[2:])
        )
        return [pool] if keep else [pool, make_node("Squeeze", [out, over], [y], name=f"{name}_squeeze")]
    if axes == [1] and keep and node.op_type == "ReduceMean":
        weight = f"mean_of_{shape[1]}_channels"
        constants[weight] = np.full((1, shape[1], 1, 1), 1 / shape[1], dtype=np.float32)
        return [make_node("Conv", [x, weight], [y], name=name)]
    return None


def _over_blocks(node: Any, shape: Sequence[int], constants: dict[str, np.ndarray]) -> list[Any] | None:
    from onnx.helper import get_node_attr_value, make_node

    (x, weight, *bias), (y,), name = node.input, node.output, node.name
    _, channels, height, width = shape
    said = {each.name: get_node_attr_value(node, each.name) for each in node.attribute}
    out, _, size, _ = constants[weight].shape
    plain = said.get("strides", [1, 1]) == [1, 1] and said.get("dilations", [1, 1]) == [1, 1] and said.get("group", 1) == 1
    if not plain or out > 1 or channels > BLOCK or size < 5 or size % 2 == 0 or said.get("pads") != [size // 2] * 4:
        return None
    if height * width <= 400 or height % BLOCK or width % BLOCK:
        return None
    constants[weight] = in_blocks(torch.from_numpy(constants[weight].copy())).numpy()
    for each in bias:
        constants[each] = np.repeat(constants[each], BLOCK**2)
    rows, columns, away = height // BLOCK, width // BLOCK, constants[weight].shape[-1] // 2
    apart, together = f"apart_{channels}_{height}_{width}", f"together_{channels}_{height}_{width}"
    constants[apart] = np.array([0, channels, rows, BLOCK, columns, BLOCK])
    constants[together] = np.array([0, channels * BLOCK**2, rows, columns])
    return [
        make_node("Reshape", [x, apart], [f"{y}_apart"], name=f"{name}_apart"),
        make_node("Transpose", [f"{y}_apart"], [f"{y}_turned"], name=f"{name}_turned", perm=[0, 1, 3, 5, 2, 4]),
        make_node("Reshape", [f"{y}_turned", together], [f"{y}_blocks"], name=f"{name}_blocks"),
        make_node("Conv", [f"{y}_blocks", weight, *bias], [f"{y}_convolved"], name=name, pads=[away] * 4),
        make_node("DepthToSpace", [f"{y}_convolved"], [y], name=f"{name}_pixels", blocksize=BLOCK, mode="CRD"),
    ]


_FITTED = {"ReduceMean": _as_pooling, "ReduceMax": _as_pooling, "Conv": _over_blocks}


def lower_maxima(proto: Any) -> None:
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


def shorten(proto: Any) -> None:
    """Without what nobody reads: where in torch a node came from, and long names of all but inputs, outputs and weights: 5 % of a file."""
    graph = proto.graph
    for told in (*graph.node, *graph.value_info, graph):
        del told.metadata_props[:]
    del graph.value_info[:]
    kept = {each.name for each in (*graph.input, *graph.output)} | {each.name for each in graph.initializer if len(each.dims) > 1} | {""}
    short: dict[str, str] = {}
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [name if name in kept else short.setdefault(name, f".{len(short):x}") for name in names]
    for each in graph.initializer:
        each.name = short.get(each.name, each.name)

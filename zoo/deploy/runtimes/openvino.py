"""OpenVINO: Intel's runtime; on processors that have it, bfloat16 at twice the speed of float32."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
from torch import Tensor, nn

from .torch_export import BATCH, trace

EXTRA = "openvino"
PACKAGE = "openvino"
SUFFIX = ".xml"
ALSO: tuple[str, ...] = (".bin",)
PRECISIONS = ("f32", "bf16")


def library() -> ModuleType:
    """
    Raises:
        ImportError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError("an OpenVINO model is written and run by openvino: pip install 'effnet-zoo[openvino]'") from error
    return openvino


@functools.cache
def core() -> Any:
    """The one openvino.Core of this process.

    With several of them, of which one was gone, the next signal was a segmentation fault (seen with 2026.4.1).
    """
    return library().Core()


def convert(
    network: nn.Module,
    example: Tensor,
    *,
    dynamic: Mapping[int, str] = BATCH,
    names: tuple[str, str] = ("image", "logits"),
    about: str = "",
) -> Any:
    """The network as an openvino.Model; the arguments are those of `write`.

    Raises:
        ImportError: openvino is not installed.
    """
    ov, _ = library(), core()  # before whatever else makes one, such as nncf
    model = ov.convert_model(trace(network, example, dynamic=dynamic))
    shape = [-1 if number in dynamic else size for number, size in enumerate(example.shape)]
    model.reshape({model.input(0): ov.PartialShape(shape)})  # it takes sizes that are fixed for free ones
    _pool(model)
    model.input(0).get_tensor().set_names({names[0]})
    model.output(0).get_tensor().set_names({names[1]})
    if about:
        model.set_rt_info(about, ["zoo"])
    return model


def _pool(model: Any) -> None:
    """Means and maxima over all pixels as poolings, where the size is known: of a general reduction the runtime makes a slower loop."""
    from openvino import opset1

    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("ReduceMean", "ReduceMax") or node.input_value(1).get_node().get_type_name() != "Constant":
            continue
        x, axes = node.input_value(0), node.input_value(1).get_node().data.reshape(-1)
        shape = x.get_partial_shape()
        if shape.rank.is_dynamic or len(shape) != 4 or sorted(axes % 4) != [2, 3] or any(side.is_dynamic for side in list(shape)[2:]):
            continue
        size, whole = [side.get_length() for side in list(shape)[2:]], {"pads_begin": [0, 0], "pads_end": [0, 0]}
        if node.get_type_name() == "ReduceMean":
            pool = opset1.avg_pool(x, strides=[1, 1], kernel_shape=size, exclude_pad=True, **whole)
        else:
            pool = opset1.max_pool(x, strides=[1, 1], kernel_shape=size, **whole)
        kept = node.get_attributes()["keep_dims"]
        node.output(0).replace(pool.output(0) if kept else opset1.squeeze(pool, np.array([2, 3])).output(0))
    model.validate_nodes_and_infer_types()


def _slim(model: Any) -> None:
    """Equal constants are stored and described once, and of the names of tensors those of inputs and outputs are left."""
    ends = {name for end in (*model.inputs, *model.outputs) for name in end.get_names()}
    first: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
    for number, operator in enumerate(model.get_ordered_ops()):
        operator.set_friendly_name(str(number))
        for output in operator.outputs():
            if not ends & output.get_names():
                output.get_tensor().set_names(set())
        for value in operator.inputs():
            source = value.get_source_output()
            constant = source.get_node()
            if constant.get_type_name() == "Constant":
                what = (str(constant.get_element_type()), tuple(constant.shape), constant.data.tobytes())
                value.replace_source_output(first.setdefault(what, source))


def save(model: Any, path: Path, *, small: bool = False) -> None:
    """Both files of an openvino.Model, with weights as they are.

    Args:
        small: float weights rounded to float16, as OpenVINO does by default, and a graph without names, indentation, and the shapes of
            inputs, which are those of the outputs that they read: half of its text, which counts beside int8 weights.
    """
    if small:
        _slim(model)
    library().save_model(model, path, compress_to_fp16=small)
    if small:
        graph = ElementTree.parse(path)
        for element in graph.iter():
            element.text = element.text and element.text.strip() or None
            element.tail = None
        for port in graph.iterfind("layers/layer/input/port"):
            del port[:]
            port.attrib.pop("precision", None)
        graph.write(path, encoding="utf-8", xml_declaration=True)


def write(
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    dynamic: Mapping[int, str] = BATCH,
    names: tuple[str, str] = ("image", "logits"),
    about: str = "",
) -> None:
    """Two files: the graph (.xml) and the weights (.bin).

    Raises:
        ImportError: openvino is not installed.
    """
    save(convert(network, example, dynamic=dynamic, names=names, about=about), path)


def about(path: Path) -> str:
    model = core().read_model(path)
    return model.get_rt_info(["zoo"]).astype(str) if model.has_rt_info(["zoo"]) else ""


def open(
    path: Path, *, threads: int | None = None, precision: str = "f32", shape: tuple[int, ...] | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """
    Args:
        threads: OpenVINO's own choice by default.
        precision: "f32", or "bf16" where the processor has it (elsewhere it is f32 all the same).
        shape: compile for this very shape, which can be faster than any batch; other shapes are refused then.

    Raises:
        ImportError: openvino is not installed.
        ValueError: another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected {' or '.join(PRECISIONS)}, got {precision!r}")
    ov = library()
    model = core().read_model(path)
    if shape is not None:
        model.reshape({model.input(0): ov.PartialShape(list(shape))})
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    request = core().compile_model(model, "CPU", options).create_infer_request()
    return lambda x: request.infer([np.ascontiguousarray(x)], share_inputs=True)[0].copy()  # the request writes over its own

"""ONNX, run by ONNX Runtime: the file that most tools read.

Written by torch's exporter through torch.export, which folds batch norms into the convolutions.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...files import write_whole
from .torch_export import BATCH, trace

EXTRA = "onnx"
PACKAGE = "onnxruntime"
SUFFIX = ".onnx"
ALSO: tuple[str, ...] = ()


def library() -> ModuleType:
    """onnxruntime.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("a .onnx file is run by onnxruntime: pip install 'effnet-zoo[onnx]'") from error
    return onnxruntime


def build(
    network: nn.Module,
    example: Tensor,
    *,
    dynamic: Mapping[int, str] = BATCH,
    names: tuple[str, str] = ("image", "logits"),
    about: str = "",
) -> Any:
    """The network as an onnx.ModelProto; the arguments are those of `write`.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("a .onnx file is written by onnx and onnxscript: pip install 'effnet-zoo[onnx]'") from error
    program = trace(network, example, dynamic=dynamic)
    exported: Any = torch.onnx.export(
        program, (example,), dynamo=True, verbose=False, input_names=[names[0]], output_names=[names[1]], external_data=False
    )
    proto = exported.model_proto
    _name_dimensions(proto, dynamic)
    if about:
        proto.metadata_props.add(key="zoo", value=about)
    return proto


def _name_dimensions(proto: Any, dynamic: Mapping[int, str]) -> None:
    """The input's dimensions as they were asked for: torch calls them s77."""
    shape = proto.graph.input[0].type.tensor_type.shape
    theirs = {shape.dim[number].dim_param: name for number, name in dynamic.items() if shape.dim[number].dim_param}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in theirs:
                dim.dim_param = theirs[dim.dim_param]


def write(
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    dynamic: Mapping[int, str] = BATCH,
    names: tuple[str, str] = ("image", "logits"),
    about: str = "",
) -> None:
    """One file, weights and all.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    write_whole(path, build(network, example, dynamic=dynamic, names=names, about=about).SerializeToString())


def about(path: Path) -> str:
    """What the file says of itself under "zoo"; "" where it says nothing."""
    return _session(path, 1).get_modelmeta().custom_metadata_map.get("zoo", "")


def _session(path: Path, threads: int | None) -> Any:
    runtime = library()
    options = runtime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def open(path: Path, *, threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """
    Raises:
        ImportError: onnxruntime is not installed.
    """
    session = _session(path, threads)
    (name,) = [each.name for each in session.get_inputs()]
    return lambda x: session.run(None, {name: x})[0]

"""A network in int8 (or bfloat16) for the runtimes that compute in it, one file a target.

    TARGETS["onnx-int8"].write(network, batches, Path("out/model.onnx"), names=("image", "logits"), about="")

Every module of TARGETS has these names, and imports its library inside the functions that need it:

    RUNTIME     whose file it is, of `zoo.deploy.RUNTIMES`
    OPTIONS     for opening the file
    KEEPS       whether layers can be kept in float, so that sensitivity.py may search for those that must be
    check()     raises ImportError, with the extra to install
    write(network, batches, path, *, names, about, keep=())
                network: one tensor to one tensor, in evaluation mode, batch norms and all; they are folded. batches: for calibration.
                names: of input and output. about: a text for the file, where it has room. keep: paths of layers that stay in float.

The rest: `calibration` reads rows, `search` finds the layers that int8 would spoil, `quantization_aware` trains for it, `to_edge` makes a
network that int8 suits, `obstacles` says whether this one does.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from . import executorch_int8, onnx_int8, openvino_bf16, openvino_int8, torchao_int8
from .calibration import ROWS as ROWS
from .calibration import calibration as calibration
from .edge import to_edge as to_edge
from .fake import layers as layers
from .obstacles import Obstacles as Obstacles
from .obstacles import obstacles as obstacles
from .qat import plain as plain
from .qat import quantization_aware as quantization_aware
from .sensitivity import LEAST_SQNR as LEAST_SQNR
from .sensitivity import Layer as Layer
from .sensitivity import Sensitivity as Sensitivity
from .sensitivity import search as search


class Target(Protocol):
    """What each module is."""

    RUNTIME: str
    OPTIONS: dict[str, Any]
    KEEPS: bool

    def check(self) -> None: ...

    def write(
        self, network: nn.Module, batches: Sequence[Tensor], path: Path, *, names: tuple[str, str], about: str, keep: Sequence[str] = ()
    ) -> None: ...


TARGETS: Mapping[str, Target] = {
    "onnx-int8": onnx_int8,
    "openvino-int8": openvino_int8,
    "openvino-bf16": openvino_bf16,
    "executorch-int8": executorch_int8,
    "torchao-int8": torchao_int8,
}

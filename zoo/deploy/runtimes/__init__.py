"""What runs a network without us, one file a runtime: how a network is written for it, and how such a file is run.

    RUNTIMES["onnx"].write(network, example, Path("out/model.onnx"))
    run = RUNTIMES["onnx"].open(Path("out/model.onnx"), threads=1)
    logits = run(pixels)                                        # [B, 3, H, W] float32 -> [B, classes] float32, both NumPy's

Every module here has these names, and imports its library inside the functions that need it:

    EXTRA       the extra of effnet-zoo that brings the library; "" where torch is enough
    PACKAGE     whose version says which one it is: importlib.metadata.version(PACKAGE)
    SUFFIX      of the file that is opened, whose path `write` is given: ".xml"
    ALSO        suffixes of what lies beside it: (".bin",)
    write(network, example, path, *, dynamic=BATCH, names=("image", "logits"), about="")
                network: any module of one tensor to one tensor, written as it is in evaluation mode. example: a tensor that it takes.
                dynamic: {dimension: its name} of what may be of another size than in the example; `BATCH` and `ANY_SIZE` are the two
                for pictures. names: of input and output. about: a text that is kept in the file where the format has room (onnx,
                openvino, torch_export, torchscript; `about(path)` reads it).
    open(path, *, threads=None) -> function
                from an array of any number of rows to an array. threads: of the runtime; its own choice by default.

`openvino.open` also takes precision="bf16" (or "f32", the default) and shape=(1, 3, 224, 224), to compile for that very shape.
What a quantizer starts from: `torch_export.trace` (an ExportedProgram), `onnx.build` (a ModelProto), `openvino.convert` (an ov.Model) and
`executorch.lower` (a program to the bytes of a .pte).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from . import executorch, onnx, openvino, torch_export, torchscript
from .torch_export import ANY_SIZE as ANY_SIZE
from .torch_export import BATCH as BATCH

Function = Callable[[np.ndarray], np.ndarray]


class Runtime(Protocol):
    """What each module here is."""

    EXTRA: str
    PACKAGE: str
    SUFFIX: str
    ALSO: tuple[str, ...]

    def write(
        self,
        network: nn.Module,
        example: Tensor,
        path: Path,
        *,
        dynamic: Mapping[int, str] = BATCH,
        names: tuple[str, str] = ("image", "logits"),
        about: str = "",
    ) -> None: ...

    def open(self, path: Path, *, threads: int | None = None) -> Function: ...


RUNTIMES: Mapping[str, Runtime] = {
    "onnx": onnx,
    "openvino": openvino,
    "executorch": executorch,
    "torch_export": torch_export,
    "torchscript": torchscript,
}


def files_of(runtime: Runtime, path: Path) -> tuple[Path, ...]:
    """All files of a network that was written to a path."""
    return (path, *(path.with_suffix(suffix) for suffix in runtime.ALSO))

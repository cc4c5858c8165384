"""ExecuTorch with XNNPACK: the runtime for phones and boards.

Memory is planned when the file is written, for a largest batch; more rows than that are run a part at a time.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...files import write_whole
from .torch_export import BATCH, trace

EXTRA = "executorch"
PACKAGE = "executorch"
SUFFIX = ".pte"
ALSO: tuple[str, ...] = ()
_MOST = 16  # rows for which there is memory


@contextmanager
def _library() -> Iterator[None]:
    """What executorch 1.5 warns of is between it and Python's standard library, or says that all of it is new."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(read_text|open_text|read_binary|open_binary) is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "This API is experimental", Warning)
        try:
            yield
        except ImportError as error:
            raise ImportError("a .pte file is written and run by executorch: pip install 'effnet-zoo[executorch]'") from error


def lower(program: torch.export.ExportedProgram) -> bytes:
    """The content of a .pte: the program with all that XNNPACK can do handed to it.

    Raises:
        ImportError: executorch is not installed.
    """
    with _library():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer


def write(
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    dynamic: Mapping[int, str] = BATCH,
    names: tuple[str, str] = ("image", "logits"),
    about: str = "",
) -> None:
    """One file. The format has no names and no room for `about`.

    Raises:
        ImportError: executorch is not installed.
        ValueError: pictures of any size are asked for; memory is planned for one.
    """
    if set(dynamic.values()) - {"batch"}:
        raise ValueError("executorch plans its memory for one size of pictures: leave the size fixed")
    write_whole(path, lower(trace(network, example, dynamic=dynamic, most=_MOST)))


def open(path: Path, *, threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """
    Args:
        threads: of ExecuTorch, which has one number for the whole process; its own choice by default.

    Raises:
        ImportError: executorch is not installed.
    """
    with _library():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime, Verification
    if threads is not None:
        portable_lib._unsafe_reset_threadpool(threads)
    content = path.read_bytes()
    program = Runtime.get().load_program(content, verification=Verification.Minimal)
    method: Any = program.load_method("forward")
    most = method.metadata.input_tensor_meta(0).sizes()[0]
    kept = program, content  # the method reads both as long as it runs, and holds neither

    def run(x: np.ndarray) -> np.ndarray:
        assert kept
        parts = torch.from_numpy(np.ascontiguousarray(x)).split(most)
        return np.concatenate([method.execute([part.contiguous()])[0].numpy().copy() for part in parts])  # it writes over its own

    return run

"""torch.export: the network as a graph of torch's own operators, for whoever has torch but not this package; the way into the others.

The graph is taken without gradients and in evaluation mode, so that the gates' own backward passes stay out of it.
"""

import copy
import importlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...files import write_whole
from ..rounds import on_threads

EXTRA = ""
PACKAGE = "torch"
SUFFIX = ".pt2"
ALSO: tuple[str, ...] = ()
BATCH: Mapping[int, str] = {0: "batch"}
ANY_SIZE: Mapping[int, str] = {0: "batch", 2: "height", 3: "width"}
_MOST = 2**15  # rows


def trace(network: nn.Module, example: Tensor, *, dynamic: Mapping[int, str] = BATCH, most: int = _MOST) -> torch.export.ExportedProgram:
    """The network in evaluation mode as an ExportedProgram.

    Args:
        network: of one tensor to one tensor.
        example: a tensor that it takes.
        dynamic: {dimension: its name} of what may be of another size than in the example.
        most: rows of the largest batch.

    Raises:
        ValueError: the network is one for this very size.
    """
    example = torch.cat([example, example])[:2]  # torch takes a 1 for a constant
    dimensions: dict[int, Any] = {
        # pictures have a least size, which torch finds out; a batch may be of one
        number: torch.export.Dim(name, min=1, max=most) if name == "batch" else torch.export.Dim.DYNAMIC
        for number, name in dynamic.items()
    }
    # a copy: the caller's may be in channels_last, which XNNPACK takes for an error
    network = copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)
    try:
        with torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes=(dimensions or None,), strict=False)
    except torch._dynamo.exc.UserError as error:
        names, shape = ", ".join(dynamic.values()), " x ".join(map(str, example.shape))
        raise ValueError(f"the network is one for {shape} and does not take any {names}: {error}") from error


def write(
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    dynamic: Mapping[int, str] = BATCH,
    names: tuple[str, str] = ("image", "logits"),
    about: str = "",
) -> None:
    """The program as torch.export.save writes it; torch names inputs by position, so that `names` say nothing here."""
    content = io.BytesIO()
    torch.export.save(trace(network, example, dynamic=dynamic), content, extra_files={"zoo": about})
    write_whole(path, content.getvalue())


def about(path: Path) -> str:
    found = {"zoo": ""}
    torch.export.load(path, extra_files=found)
    return found["zoo"]


def open(path: Path, *, threads: int | None = None, torchao: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """
    Args:
        threads: of torch; as many as it has by default.
        torchao: the program is a quantized one, whose operators torchao brings.

    Raises:
        ImportError: torchao is asked for and not installed.
    """
    if torchao:
        try:
            importlib.import_module("torchao.quantization.pt2e")
        except ImportError as error:
            raise ImportError("an int8 program of torch is run with torchao: pip install 'effnet-zoo[torchao]'") from error
    return as_function(torch.export.load(path).module(), threads)


def as_function(module: Callable[[Tensor], Tensor], threads: int | None) -> Callable[[np.ndarray], np.ndarray]:
    """A module of torch's as a function of arrays, on so many threads."""

    @torch.inference_mode()
    def run(x: np.ndarray) -> np.ndarray:
        with on_threads(threads):
            return module(torch.from_numpy(np.ascontiguousarray(x))).numpy()

    return run

"""The ways to run a network that `zoo bench` compares: PyTorch's own, and a file of each runtime."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .fold import folded
from .runtimes import RUNTIMES, Function, files_of
from .runtimes.torch_export import as_function

PYTORCH = ("eager", "folded", "compiled")
FILES: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # whose file, and what it is opened with
    "onnx": ("onnx", {}),
    "openvino": ("openvino", {}),
    "openvino-bf16": ("openvino", {"precision": "bf16"}),
    "executorch": ("executorch", {}),
    "torch-export": ("torch_export", {}),
    "torchscript": ("torchscript", {}),
}
WAYS = (*PYTORCH, *FILES)
USUAL = ("eager", "folded", "onnx", "openvino", "openvino-bf16", "executorch")  # compiling takes a minute a cell and needs a compiler


@dataclass(frozen=True)
class Written:
    """A network that is a runtime's file already.

    Args:
        runtime: whose, of RUNTIMES.
        path: the file that is opened.
        options: for opening it.
    """

    runtime: str
    path: Path
    options: Mapping[str, Any]


def way_of(written: Written) -> str:
    """Which of the ways a file is run in."""
    same = (way for way, (runtime, options) in FILES.items() if runtime == written.runtime and options == written.options)
    return next(same, written.runtime.replace("_", "-"))


def told(error: Exception) -> str:
    """An error in one line, and not a long one."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


@contextmanager
def many_graphs() -> Iterator[None]:
    """torch.compile gives up after eight graphs of one `forward`; here every network and batch size has one."""
    import torch._dynamo

    with torch._dynamo.config.patch(recompile_limit=1024, accumulated_recompile_limit=1024):
        yield


class _ChannelsLast(nn.Module):
    """What takes its pixels as they come, in channels_last."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last))


def _in_pytorch(way: str, network: nn.Module, pixels: np.ndarray) -> Function:
    if way == "eager":
        return as_function(network, None)
    if way == "folded":
        return as_function(_ChannelsLast(folded(network, torch.from_numpy(pixels[:1]))), None)
    compiled: Any = torch.compile(network, dynamic=False, fullgraph=True)  # a break in the graph, or too many graphs, is an error
    return as_function(compiled, None)


class Opener:
    """Opens networks for given pixels, and writes the file of a network once a runtime.

    Args:
        folder: for these files.
        threads: of every runtime; PyTorch's are the process's.
    """

    def __init__(self, folder: Path, threads: int):
        self.folder, self.threads = folder, threads
        self._pool_is_set = False

    def _file(self, number: int, network: nn.Module, size: tuple[int, ...], runtime: str) -> Path:
        its = RUNTIMES[runtime]
        path = self.folder / f"{number}{its.SUFFIX}"
        if not path.exists():
            its.write(network, torch.randn(2, *size), path)
        return path

    def __call__(self, number: int, network: nn.Module | Written, way: str, pixels: np.ndarray) -> tuple[Function, int]:
        """The function, and the bytes of the weights or files that it reads.

        Args:
            number: of the network, for its file's name.
            network: in eval mode; or a file, which is run by its own runtime, whatever `way` says.
            pixels: what it will be given.

        Raises:
            ImportError: the runtime is not installed.
            Exception: whatever the runtime raises.
        """
        if way in PYTORCH:
            assert isinstance(network, nn.Module)
            return _in_pytorch(way, network, pixels), sum(tensor.nbytes for tensor in network.state_dict().values())
        if isinstance(network, Written):
            runtime, path, options = network.runtime, network.path, dict(network.options)
        else:
            runtime, options = FILES[way][0], dict(FILES[way][1])
            path = self._file(number, network, pixels.shape[1:], runtime)
        threads: int | None = self.threads
        if runtime == "openvino":
            options["shape"] = pixels.shape  # as whoever needs it fast opens it
        if runtime == "executorch":  # one pool for the whole process: set again, what is open would hold the old one
            threads, self._pool_is_set = None if self._pool_is_set else threads, True
        its: Any = RUNTIMES[runtime]
        return its.open(path, threads=threads, **options), sum(file.stat().st_size for file in files_of(its, path))

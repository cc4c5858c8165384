"""TorchScript: the older form, which libtorch and many servers still load.

Traced and frozen: batch norms are folded into the convolutions.
"""

import copy
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...files import write_whole
from .torch_export import BATCH, as_function

EXTRA = ""
PACKAGE = "torch"
SUFFIX = ".ts"
ALSO: tuple[str, ...] = ()


@contextmanager
def _quiet() -> Iterator[None]:
    """torch says of every use that torch.export is the newer way, which is a choice of whoever asks for this one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
        yield


def write(
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    dynamic: Mapping[int, str] = BATCH,
    names: tuple[str, str] = ("image", "logits"),
    about: str = "",
) -> None:
    """One file. A trace takes any size where the network does, whatever `dynamic` says."""
    network = copy.deepcopy(network).eval()
    content = io.BytesIO()
    with _quiet(), torch.no_grad():
        # a gate asks how large a map is; it does so of the example, and what it chose is checked on real rows
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.freeze(torch.jit.trace(network, example))
        torch.jit.save(traced, content, _extra_files={"zoo": about.encode()})
    write_whole(path, content.getvalue())


def about(path: Path) -> str:
    found = {"zoo": ""}
    with _quiet():
        torch.jit.load(path, map_location="cpu", _extra_files=found)
    text = found["zoo"]
    return text.decode() if isinstance(text, bytes) else text


def open(path: Path, *, threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    with _quiet():
        module = torch.jit.load(path, map_location="cpu")
    return as_function(module, threads)

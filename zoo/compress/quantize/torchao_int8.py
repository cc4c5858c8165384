"""int8 for torch itself: torchao's quantizer for x86, S8 weights a channel, U8 activations, as a torch.export program (.pt2), no pickle.

What it buys is the file, a quarter of the size. Run as it is, each layer is computed in floats from its int8 weights, which is slower than
the float network; `torch.compile` of the loaded program turns the pattern into int8 kernels (docs/quantize.md).

No layer can be kept in float: the table of sensitivity is not there.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...files import write_whole
from .pt2e import library, quantized

RUNTIME = "torch_export"
OPTIONS: dict[str, Any] = {"torchao": True}
KEEPS = False


def check() -> None:
    with library("int8 for torch is made by torchao", "torchao"):
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401


def write(
    network: nn.Module, batches: Sequence[Tensor], path: Path, *, names: tuple[str, str], about: str, keep: Sequence[str] = ()
) -> None:
    def quantizer() -> Any:
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        return x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())

    content = io.BytesIO()
    torch.export.save(quantized(network, batches, quantizer), content, extra_files={"zoo": about})
    write_whole(path, content.getvalue())

"""int8 for ExecuTorch: XNNPACK's quantizer, S8 weights a channel, S8 activations, lowered to XNNPACK's int8 kernels.

No layer can be kept in float: the table of sensitivity is not there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...deploy.runtimes import executorch as runtime
from ...files import write_whole
from .pt2e import library, quantized

RUNTIME = "executorch"
OPTIONS: dict[str, Any] = {}
KEEPS = False
_MOST = 16  # rows of the largest batch: memory is planned


def check() -> None:
    with library("int8 for ExecuTorch is made by executorch", runtime.EXTRA), runtime._library():
        import executorch.backends.xnnpack.quantizer.xnnpack_quantizer  # noqa: F401
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401


def write(
    network: nn.Module, batches: Sequence[Tensor], path: Path, *, names: tuple[str, str], about: str, keep: Sequence[str] = ()
) -> None:
    def quantizer() -> Any:
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

        return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))

    with runtime._library():
        write_whole(path, runtime.lower(quantized(network, batches, quantizer, most=_MOST)))

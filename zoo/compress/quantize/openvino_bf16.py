"""bfloat16 for OpenVINO: the float network, which the runtime is told to compute in bfloat16; its weights are float16 in the file.

Nothing is calibrated. A processor without bfloat16 computes in float32 all the same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...deploy.runtimes import openvino as runtime

RUNTIME = "openvino"
OPTIONS: dict[str, Any] = {"precision": "bf16"}
KEEPS = False


def check() -> None:
    runtime.library()


def write(
    network: nn.Module, batches: Sequence[Tensor], path: Path, *, names: tuple[str, str], about: str, keep: Sequence[str] = ()
) -> None:
    runtime.save(runtime.convert(network, batches[0][:2], names=names, about=about), path, small=True)

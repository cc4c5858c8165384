"""int8 for ONNX Runtime: static, as pairs of QuantizeLinear and DequantizeLinear (QDQ), U8 activations, S8 weights a channel.

S8 activations would be slower than floats, and one scale for a whole weight destroys the accuracy. All operators are quantized, not the
convolutions alone, so that ranges meet without a way through float between them: faster on a lite0 and an SE network, and as true to float.
"""

import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...deploy.runtimes import onnx as runtime
from ...files import write_whole
from ...progress import tracked
from . import onnx_graph

RUNTIME = "onnx"
OPTIONS: dict[str, Any] = {}
KEEPS = True
_FLOAT = ("InstanceNormalization",)  # what group norms are in ONNX: rounded, those of scsa left nothing of its outputs
_WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def check() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        from onnxruntime import quantization  # noqa: F401
    except ImportError as error:
        raise ImportError("int8 for ONNX Runtime is made by onnxruntime and onnx: pip install 'effnet-zoo[onnx]'") from error


def _around(graph: Any, keep: Sequence[str]) -> list[str]:
    """Names of the nodes that stay in float: group norms, and for a layer to, its own and those that make what it reads, up to the layers
    before it.

    A tensor is quantized for all who touch it, so that the layer alone would still read what was rounded.
    """
    maker = {name: node for node in graph.node for name in node.output}
    waiting = deque(node for node in graph.node if {f"{path}.weight" for path in keep} & set(node.input))
    names: dict[str, None] = {}
    own = [node.name for node in waiting]
    while waiting:
        node = waiting.popleft()
        if node.name in names:
            continue
        names[node.name] = None
        if node.name in own or node.op_type not in (*_WEIGHTED, "Add", "ReduceMean", "GlobalAveragePool"):
            waiting.extend(maker[name] for name in node.input if name in maker)
    return [*names, *(node.name for node in graph.node if node.op_type in _FLOAT and node.name not in names)]


def write(
    network: nn.Module, batches: Sequence[Tensor], path: Path, *, names: tuple[str, str], about: str, keep: Sequence[str] = ()
) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

    class Rows(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(tracked(batches, len(batches), "calibrate"))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {names[0]: batch.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, done = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "done"))
        proto = runtime.build(network, batches[0][:2], names=names, about=about)
        onnx_graph.fit(proto)
        plain.write_bytes(proto.SerializeToString())
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)  # torch has written the shapes; CBAM's it cannot infer
        quantize_static(
            str(ready),
            str(done),
            Rows(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_around(onnx.load(ready).graph, keep),
        )
        proto = onnx.load(done)
    onnx_graph.lower_maxima(proto)
    onnx_graph.shorten(proto)
    write_whole(path, proto.SerializeToString())

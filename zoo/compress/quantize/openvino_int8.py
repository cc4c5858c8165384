"""int8 for OpenVINO, by NNCF: S8 weights a channel, U8 activations; the weights that stay floats are float16 in the file.

NNCF leaves squeeze-and-excitation's small layers in float by itself. Where layers are kept in float, so are the products of maps and gates.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...deploy.runtimes import openvino as runtime
from ...progress import tracked
from . import fake

RUNTIME = "openvino"
OPTIONS: dict[str, Any] = {}
KEEPS = True
_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
_PRODUCTS = ("Multiply",)  # of maps and gates: what a CBAM network loses in them, layers in float do not bring back


def check() -> None:
    runtime.library()
    try:
        import nncf  # noqa: F401
    except ImportError as error:
        raise ImportError("int8 for OpenVINO is made by nncf: pip install 'effnet-zoo[openvino]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF tells every step on stdout, with bars of its own."""
    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


def _rows(weight: Any) -> np.ndarray:
    """A weight as `[out, n]`, each row of length 1: the same before and after a batch norm was folded in, but for the sign."""
    flat = np.abs(np.asarray(weight, dtype=np.float64)).reshape(weight.shape[0], -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30)


def _operators(model: Any, network: nn.Module, keep: Sequence[str]) -> list[str]:
    """What the layers are called in an openvino.Model, which keeps no names: they are known by their weights."""
    found = []
    wanted = [_rows(fake.layers(network)[path].weight.detach().cpu().numpy()) for path in keep]  # type: ignore[operator]
    for operator in model.get_ordered_ops():
        if operator.get_type_name() in _LAYERS:
            constant = operator.input_value(1).get_node()
            if constant.get_type_name() != "Constant":
                continue
            shape = list(constant.shape)
            weight = constant.data.reshape(-1, *shape[2:]) if operator.get_type_name() == "GroupConvolution" else constant.data
            rows = _rows(weight)
            if any(rows.shape == each.shape and np.allclose(rows, each, atol=1e-4) for each in wanted):
                found.append(operator.get_friendly_name())
    return found


def write(
    network: nn.Module, batches: Sequence[Tensor], path: Path, *, names: tuple[str, str], about: str, keep: Sequence[str] = ()
) -> None:
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # the whole range, not the mean of each row's, and biases as they were learned: 5 dB and more on a lite0 and an SE network
    how = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX, disable_bias_correction=True
    )
    model = runtime.convert(network, batches[0][:2], names=names, about=about)
    rows = [row[None].numpy() for batch in batches for row in batch]
    with _quiet():
        model = nncf.quantize(
            model,
            nncf.Dataset(tracked(rows, len(rows), "calibrate")),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(rows),
            advanced_parameters=how,
            ignored_scope=nncf.IgnoredScope(names=_operators(model, network, keep), types=[*(_PRODUCTS if keep else ())], validate=False),
        )
    if about:
        model.set_rt_info(about, ["zoo"])
    runtime.save(model, path, small=True)

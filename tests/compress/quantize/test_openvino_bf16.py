"""openvino-bf16: the float network, which opens in bfloat16."""

import pytest

pytest.importorskip("openvino", reason="pip install 'effnet-zoo[openvino]'")

from zoo.compress.quantize import TARGETS  # noqa: E402
from zoo.deploy import RUNTIMES  # noqa: E402

from .conftest import NAMES  # noqa: E402

TARGET, RUNTIME = TARGETS["openvino-bf16"], RUNTIMES["openvino"]


def test_as_good_and_told_to_compute_in_half(network, rows, digits, within, tmp_path):
    path = tmp_path / "model.xml"
    TARGET.write(network, rows[0], path, **NAMES)
    assert TARGET.OPTIONS == {"precision": "bf16"} and not TARGET.KEEPS
    within(RUNTIME.open(path, threads=1, **TARGET.OPTIONS), digits, network, 0.5)
    assert path.with_suffix(".bin").stat().st_size < 0.55 * 4 * sum(each.numel() for each in network.parameters())

"""executorch-int8: int8 weights in the .pte, handed to XNNPACK, and as good."""

import pytest

pytest.importorskip("executorch", reason="pip install 'effnet-zoo[executorch]'")
pytest.importorskip("torchao", reason="pip install 'effnet-zoo[executorch]'")

from zoo.compress.quantize import TARGETS  # noqa: E402
from zoo.deploy import RUNTIMES  # noqa: E402

from .conftest import NAMES  # noqa: E402

TARGET, RUNTIME = TARGETS["executorch-int8"], RUNTIMES["executorch"]


def test_as_good_and_small(network, rows, digits, within, tmp_path):
    path = tmp_path / "model.pte"
    TARGET.check()
    TARGET.write(network, rows[0], path, **NAMES)
    within(RUNTIME.open(path), digits, network, 1)
    assert path.stat().st_size < 0.4 * 4 * sum(each.numel() for each in network.parameters())
    assert b"XnnpackBackend" in path.read_bytes()

"""torchao-int8: a program of torch with int8 weights a channel and U8 activations, no float weights beside them, and no pickle."""

import pytest
import torch

pytest.importorskip("torchao", reason="pip install 'effnet-zoo[torchao]'")

from zoo.compress.quantize import TARGETS  # noqa: E402
from zoo.deploy import RUNTIMES  # noqa: E402

from .conftest import NAMES  # noqa: E402

TARGET, RUNTIME = TARGETS["torchao-int8"], RUNTIMES["torch_export"]


def test_as_good_and_really_int8(network, rows, digits, within, tmp_path):
    path = tmp_path / "model.pt2"
    TARGET.check()
    TARGET.write(network, rows[0], path, **NAMES)
    run = RUNTIME.open(path, threads=1, **TARGET.OPTIONS)
    within(run, digits, network, 1)
    assert run(digits[0][:1].numpy()).shape == (1, 10) and RUNTIME.about(path) == NAMES["about"]
    program = torch.export.load(path)
    called = [node for node in program.graph.nodes if node.op == "call_function"]
    weights = [node for node in called if "dequantize_per_channel" in str(node.target)]
    activations = {node.args[3:6] for node in called if ".quantize_per_tensor" in str(node.target)}
    assert len(weights) == 18 and activations == {(0, 255, torch.uint8)}
    heavy = [each for each in program.state_dict.values() if each.numel() > 1000]
    assert heavy and {each.dtype for each in heavy} == {torch.int8}

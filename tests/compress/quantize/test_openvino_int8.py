"""openvino-int8: NNCF's fake quantizers are in the file, weights are int8 a channel, and named layers stay in float."""

import numpy as np
import pytest
import timm
import torch

pytest.importorskip("openvino", reason="pip install 'effnet-zoo[openvino]'")
pytest.importorskip("nncf", reason="pip install 'effnet-zoo[openvino]'")

from zoo.compress.quantize import TARGETS, fake  # noqa: E402
from zoo.compress.quantize.sensitivity import outputs, sqnr  # noqa: E402
from zoo.deploy import RUNTIMES  # noqa: E402
from zoo.deploy.runtimes import openvino as runtime  # noqa: E402

from .conftest import HARD, NAMES  # noqa: E402

TARGET, RUNTIME = TARGETS["openvino-int8"], RUNTIMES["openvino"]


def int8(path):
    """Shapes of the int8 weights, and levels of the activations."""
    model = runtime.core().read_model(path)
    weights = [
        list(op.shape) for op in model.get_ordered_ops() if op.get_type_name() == "Constant" and op.get_element_type().to_string() == "i8"
    ]
    levels = {op.get_attributes()["levels"] for op in model.get_ordered_ops() if op.get_type_name() == "FakeQuantize"}
    return weights, levels


def test_as_good_and_really_int8(network, rows, digits, within, tmp_path, capsys):
    path = tmp_path / "model.xml"
    TARGET.write(network, rows[0], path, **NAMES)
    assert capsys.readouterr().out == ""  # which may be JSON
    within(RUNTIME.open(path, threads=1), digits, network, 1)
    weights, levels = int8(path)
    assert len(weights) >= 12 and levels == {256} and RUNTIME.about(path) == NAMES["about"]


@torch.no_grad()
def test_the_hard_layer_stays_in_float(hard, rows, tmp_path):
    wanted, found = outputs(hard, rows[1]), {}
    for keep in ((), (HARD[1],)):
        path = tmp_path / f"{len(keep)}.xml"
        TARGET.write(hard, rows[0], path, **NAMES, keep=keep)
        run = RUNTIME.open(path, threads=1)
        found[keep] = sqnr(wanted, torch.cat([torch.from_numpy(run(batch.numpy())) for batch in rows[1]])), int8(path)[0]
    (bad, every), (good, fewer) = found.values()
    assert good > max(20, bad + 10) and len(fewer) == len(every) - 1
    shape = list(fake.layers(hard)[HARD[1]].weight.shape)
    assert every.count(shape) == fewer.count(shape) + 1


def rounded_products(path) -> list[bool]:
    """Of every product of two maps, or of a map and a gate: whether what it multiplies was rounded."""

    def makers(operator):
        return [operator.input_value(number).get_node().get_type_name() for number in range(operator.get_input_size())]

    model = runtime.core().read_model(path)
    products = [makers(operator) for operator in model.get_ordered_ops() if operator.get_type_name() == "Multiply"]
    return ["FakeQuantize" in each for each in products if not {"Constant", "Convert"} & set(each)]


def test_where_a_layer_stays_in_float_so_do_the_products_of_maps_and_gates(rows, tmp_path):
    model = timm.create_model("effnet_cbam_test", num_classes=10).eval()
    found = []
    for keep in ((), ("conv_stem",)):
        TARGET.write(model, rows[0], tmp_path / "model.xml", **NAMES, keep=keep)
        found.append(rounded_products(tmp_path / "model.xml"))
    assert any(found[0]) and len(found[1]) >= 2 and not any(found[1])


def test_the_graph_says_no_more_than_it_must(network, rows, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setattr(runtime, "save", lambda model, path, small: runtime.library().save_model(model, path, compress_to_fp16=small))
        TARGET.write(network, rows[0], tmp_path / "long.xml", **NAMES)
    TARGET.write(network, rows[0], tmp_path / "short.xml", **NAMES)
    long, short = (RUNTIME.open(tmp_path / f"{name}.xml", threads=1)(rows[1][0].numpy()) for name in ("long", "short"))
    assert np.array_equal(long, short)
    sizes = [sum((tmp_path / f"{name}{suffix}").stat().st_size for suffix in (".xml", ".bin")) for name in ("long", "short")]
    assert (tmp_path / "short.xml").stat().st_size < 0.6 * (tmp_path / "long.xml").stat().st_size and sizes[1] < sizes[0]
    model = runtime.core().read_model(tmp_path / "short.xml")
    assert [end.get_any_name() for end in (*model.inputs, *model.outputs)] == ["image", "logits"]
    constants = [op for op in model.get_ordered_ops() if op.get_type_name() == "Constant"]
    assert len({(str(op.get_element_type()), tuple(op.shape), op.data.tobytes()) for op in constants}) == len(constants)


def test_a_lite_network_is_a_quarter_of_the_size(tmp_path):
    network = timm.create_model("effnet_none_lite0", num_classes=10).eval()
    TARGET.write(network, [torch.randn(2, 3, 32, 32)], tmp_path / "model.xml", **NAMES)
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert written < 0.28 * 4 * sum(each.numel() for each in network.parameters())

"""The scripts of docs/clients, run as they stand, and networks that were changed, to be given to other people's software."""

import re
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import zoo

PAGES = Path(__file__).parents[2] / "docs" / "clients"


def pytest_collection_modifyitems(config, items):
    """Only those who ask for them get them: `pytest tests/clients`, or `-m clients`."""
    if any("clients" in argument for argument in config.args) or "clients" in config.option.markexpr:
        return
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    items[:] = [item for item in items if item not in set(ours)]
    config.hook.pytest_deselected(items=ours)


@pytest.fixture(scope="module", autouse=True)
def client(request):
    """The library that the file names as its CLIENT. Not imported at the top: collecting the tests would take as long as running them."""
    return pytest.importorskip(request.module.CLIENT, reason="pip install 'effnet-zoo[clients]'")


@pytest.fixture(scope="module")
def page(request, client, tmp_path_factory):
    """The names that the script of this file's page, docs/clients/effdet.md of test_effdet.py, leaves behind, run in an empty folder."""
    path = PAGES / f"{request.path.stem.removeprefix('test_')}.md"
    (script,) = re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        torch.manual_seed(0)
        exec(compile(script, str(path), "exec"), names)
        yield names  # still there: a loader of the script may read its files later


@pytest.fixture
def gates():
    """gates(model): how many of each name are in it; gates(model, that_learn=True): how many of them a gradient has reached."""

    def count(model: nn.Module, that_learn: bool = False) -> Counter:
        found = [(name, [parameter.grad for parameter in gate.parameters()]) for _, name, gate in zoo.attention_slots(model)]
        return Counter(name for name, grads in found if not that_learn or any(grad is not None and grad.any() for grad in grads))

    return count


@pytest.fixture
def same():
    """same(ours, theirs): tensors, or lists of them, are equal but for rounding: where weights lie in memory, sums are grouped so or so."""
    return partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)


@pytest.fixture(params=["saved", "swapped", "pruned"])
def folder(request, tmp_path) -> Path:
    """A small network of ten classes as `zoo.save_model` writes it: as made, with other gates in two stages, or with narrow blocks."""
    model = timm.create_model("effnet_cbam_test", num_classes=10)
    if request.param == "swapped":
        zoo.swap_attention(model, "coord", stages=[3, 4], keep="fresh")
    if request.param == "pruned":
        pytest.importorskip("torch_pruning", reason="pip install 'effnet-zoo[prune]'")
        zoo.prune(model, macs=0.6)
    with torch.no_grad():  # as after training: nothing calm, no statistic at its start
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.05)
    return zoo.save_model(model, tmp_path / request.param)


@pytest.fixture
def network(folder) -> nn.Module:
    """That network, as timm reads it."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

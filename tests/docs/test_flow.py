"""The picture on a gate's page is true: its lines, run step by step, give the gate's own output, and use every parameter that it has."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

import zoo  # noqa: F401  (fills the registry)
from registry import ATTENTION

ROOT = Path(__file__).parents[2]


def load(name: str):
    """A file of docs/site, which is no package; as the site's hook finds them, by their plain names."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


flow = load("flow")


def flows(name: str) -> list[tuple[str, str]]:
    """(arguments, lines) of each picture on a gate's page."""
    text = (ROOT / "docs" / "attention" / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(r"^```flow *(.*?)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


PICTURES = [(name, arguments, lines) for name in sorted(ATTENTION) for arguments, lines in flows(name)]


def drawn(name: str, arguments: str, lines: str):
    gate = ATTENTION[name](flow.CHANNELS, **eval(f"dict({arguments})")).double()
    x = flow.sample(gate).double()
    with torch.no_grad():
        return flow.Flow(lines, gate, x), gate, x


@pytest.mark.parametrize("name, arguments, lines", PICTURES, ids=[f"{name}-{arguments}" for name, arguments, _ in PICTURES])
def test_the_lines_compute_the_gate(name, arguments, lines):
    found, gate, x = drawn(name, arguments, lines)
    with torch.no_grad():
        y = gate(x)
    torch.testing.assert_close(found.y.value, y, rtol=1e-6, atol=1e-6)
    if name != "none":
        assert not torch.allclose(y, x, rtol=0.01, atol=0.01), "the gate did nothing: nothing tested"


@pytest.mark.parametrize("name, arguments, lines", PICTURES, ids=[f"{name}-{arguments}" for name, arguments, _ in PICTURES])
def test_every_parameter_is_in_the_picture(name, arguments, lines):
    found, gate, _ = drawn(name, arguments, lines)
    shown = {path.partition("[")[0] for each in found.paths for path in each.split(", ")}
    missing = {key for key, _ in gate.named_parameters() if not any(key == path or key.startswith(f"{path}.") for path in shown)}
    assert missing == set()


def test_every_gate_has_a_picture():
    assert {name for name, _, _ in PICTURES} == set(ATTENTION)

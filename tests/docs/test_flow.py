"""The picture on a gate's page is true: its lines, run step by step, give the gate's own output, and use every parameter that it has."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
import torch

import zoo  # noqa: F401  (fills the registry)
from registry import ATTENTION

ROOT = Path(__file__).parents[2]


def load(name: str):
    """A file of docs/site, which is no package: by its plain name, as the site's hook finds it."""
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


class Drawn(NamedTuple):
    """A gate's lines, run; the gate; and its own output of the same x."""

    flow: flow.Flow
    gate: torch.nn.Module
    y: torch.Tensor


def drawn(name: str, arguments: str, lines: str) -> Drawn:
    gate = ATTENTION[name](flow.CHANNELS, **eval(f"dict({arguments})")).double()
    x = flow.sample(gate).double()
    with torch.no_grad():
        return Drawn(flow.Flow(lines, gate, x), gate, gate(x))


@pytest.fixture(scope="module", params=PICTURES, ids=lambda each: f"{each[0]}-{each[1]}" if each[1] else each[0])
def gate(request) -> Drawn:
    return drawn(*request.param)


def agree(found: Drawn) -> None:
    torch.testing.assert_close(found.flow.y.value, found.y, rtol=1e-6, atol=1e-6)


def test_the_lines_compute_the_gate(gate):
    agree(gate)
    x = gate.flow.nodes[0].value
    assert isinstance(gate.gate, torch.nn.Identity) or not torch.allclose(gate.y, x, rtol=0.01, atol=0.01), "the gate did nothing"


def test_every_parameter_is_in_the_picture(gate):
    shown = {path.partition("[")[0] for each in gate.flow.paths for path in each.split(", ")}
    missing = {key for key, _ in gate.gate.named_parameters() if not any(key == path or key.startswith(f"{path}.") for path in shown)}
    assert missing == set()


def test_the_picture_is_complete(gate):
    """Every step and name is in the drawing, in a tree that an XML parser reads; no box lies on another, and all lines lead down."""
    picture = load("flow_picture")
    svg = ElementTree.fromstring(picture.picture(gate.flow, "what it shows"))
    boxes = picture.boxes(gate.flow)
    assert len(svg.findall("rect")) == sum(not box.round for box in boxes)
    assert len({(box.lane, box.rank) for box in boxes}) == len(boxes)
    assert sorted(id(step) for box in boxes[:-1] for step in box.steps) == sorted(map(id, gate.flow.nodes))
    assert all(before.rank < box.rank for box in boxes for before in box.before)
    written = "".join(svg.itertext())
    assert all(path in written for path in gate.flow.paths)


@pytest.mark.parametrize(
    "name, right, wrong",
    [
        ("cbam", "max_hw(x)", "mean_hw(x)"),
        ("cbam", "spatial.bn(spatial.conv(max_and_mean_c(x1)))", "spatial.conv(max_and_mean_c(x1))"),
        ("eca", "sigmoid(conv(mean_hw(x)))", "sigmoid(mean_hw(x))"),
        ("gct", "n = gamma * e", "n = e"),
    ],
)
def test_a_wrong_picture_is_found(name, right, wrong):
    ((arguments, lines),) = flows(name)
    assert right in lines
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        agree(drawn(name, arguments, lines.replace(right, wrong)))


@pytest.mark.parametrize("lines", ["y = nothing(x)", "y = x * conv9(x)", "z = x", "x", "y = max_hw"])
def test_nonsense_is_refused(lines):
    with pytest.raises(ValueError):
        drawn("se", "", lines)


def test_every_gate_has_a_picture():
    assert {name for name, _, _ in PICTURES} == set(ATTENTION)

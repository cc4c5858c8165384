"""Every gate has a page, a test and a class of its name; the page maps its parameters to the authors', key by key."""

import re
from pathlib import Path

import pytest

import zoo  # noqa: F401  (fills the registry)
from registry import ATTENTION

ROOT = Path(__file__).parents[2]
NAMES = sorted(ATTENTION)


def page(name: str) -> str:
    return (ROOT / "docs" / "attention" / f"{name}.md").read_text()


def listed(text: str) -> set[str]:
    """The left column of the table of parameters."""
    rows = [line.split("|")[1] for line in text.split("## Parameters", 1)[1].split("\n## ", 1)[0].splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("name", NAMES)
def test_file_test_and_page_have_the_name(name):
    for file in (f"zoo/attention/{name}.py", f"tests/attention/test_{name}.py", f"docs/attention/{name}.md"):
        assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("name", NAMES)
def test_page_says_what_it_is(name):
    text = page(name)
    assert text.startswith(f"# {name}: ") or name == "none"
    gate = ATTENTION[name](64)
    said = re.search(r"\*\*Class\*\* ([a-z]+)", text)
    assert said and said[1] in (gate.attends, "none"), f"the page's class: expected {gate.attends}"
    assert ("parameter-free" in text) >= (not list(gate.parameters()) and name != "none")
    assert "**Use it**" in text
    if name != "none":
        assert "**Paper**" in text and re.search(r"\d{4}", text), "a paper with a year"


@pytest.mark.parametrize("name", NAMES)
def test_page_maps_every_parameter(name):
    text, keys = page(name), set(ATTENTION[name](64).state_dict())
    found = listed(text)
    if not keys:
        assert "It has no parameters." in text and not found
        return
    covered = {key for key in keys if key in found or any(each.endswith(".*") and key.startswith(each[:-1]) for each in found)}
    assert covered == keys, f"not on the page: {sorted(keys - covered)}"
    idle = {each for each in found if each not in keys and not (each.endswith(".*") and any(key.startswith(each[:-1]) for key in keys))}
    assert not idle, f"on the page, but not in the gate: {sorted(idle)}"

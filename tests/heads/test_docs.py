"""Every head has a file, a test and a page of its name, and the page lists its parameters."""

import re
from pathlib import Path

import pytest

import zoo.heads  # noqa: F401  # fills the registry
from registry import HEADS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(HEADS))
def test_file_test_and_page_have_the_name(name):
    for file in (f"zoo/heads/{name}.py", f"tests/heads/test_{name}.py", f"docs/heads/{name}.md"):
        assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("name", sorted(HEADS))
def test_page_says_what_it_is(name):
    text = (ROOT / "docs" / "heads" / f"{name}.md").read_text()
    assert text.startswith(f"# {name}: ")
    assert f"**Reads** {getattr(HEADS[name], 'reads', 'vector')}" in text and "**Use it**" in text
    assert name == "none" or re.search(r"\*\*Paper\*\* .*\d{4}", text)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_page_lists_every_parameter(name):
    text, keys = (ROOT / "docs" / "heads" / f"{name}.md").read_text(), set(HEADS[name](64, 64).state_dict())
    table = text.split("## Parameters", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE)) == keys
    assert keys or "It has no parameters." in table

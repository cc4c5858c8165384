"""Every tower has a file, a test and a page of its name; the page names what it reads and every option."""

import inspect
import re
from pathlib import Path

import pytest

import zoo  # noqa: F401  (fills the registry)
from registry import TOWERS

ROOT = Path(__file__).parents[2]
LEARNED = {"tokenizer", "values", "numeric", "categorical", "in_features", "mean", "std"}  # from the training split: nobody types these


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_file_test_and_page_have_the_name(name):
    for file in (f"zoo/towers/{name}.py", f"tests/towers/test_{name}.py", f"docs/towers/{name}.md"):
        assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_page_says_what_it_is(name):
    text = (ROOT / "docs" / "towers" / f"{name}.md").read_text()
    options = text.partition("## Options")[2].partition("\n## ")[0]
    tower = TOWERS[name]
    assert text.startswith(f"# {name}: ") and f"**Reads** {tower.reads} " in text and "**Use it**" in text
    makers = [tower, tower.fit] if hasattr(tower, "fit") else [tower]
    keywords = [
        parameter for make in makers for parameter in inspect.signature(make).parameters.values() if parameter.kind != parameter.VAR_KEYWORD
    ]
    listed = {word for line in options.splitlines() if line.startswith("| `") for word in re.findall(r"`([^`]+)`", line.split("|")[1])}
    learned = LEARNED if "fit" in vars(tower) else {"tokenizer", "folder"}
    known = {parameter.name for parameter in keywords}
    assert known - learned <= listed <= known

"""The tables of gates say what docs/results/*.json and the networks say now."""

import importlib.util
from pathlib import Path

from registry import ATTENTION

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("numbers_of_gates", ROOT / "docs/site/numbers_of_gates.py")
numbers = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(numbers)


def test_the_readme_holds_the_table_that_the_script_would_write():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert numbers.with_table(text) == text


def test_every_gate_has_a_line_and_a_page():
    lines = numbers.table("docs/attention/").splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == [f"[{gate}](docs/attention/{gate}.md)" for gate in sorted(ATTENTION)]
    assert all((ROOT / f"docs/attention/{gate}.md").is_file() for gate in ATTENTION)


def test_a_table_that_is_out_of_date_is_found():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert numbers.with_table(text.replace("| channel |", "| spatial |", 1)) == text

"""The README does what it says: its code runs, its verbs exist, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from zoo.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def _missing_links(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"\w+:", link)]
    return [link for link in links if link and not (page.parent / link).exists()]


def test_the_python_blocks_run_in_order(tmp_path):
    """As a reader would run them: one after the other, in one session, warnings shown."""
    code = [content for language, content in _blocks(README) if language == "python"]
    assert len(code) >= 4 and code[0].startswith("import timm, zoo")
    script = tmp_path / "readme.py"
    checks = [
        "assert out['image'].shape == out['text'].shape == (2, 256)",
        "assert 0 <= metrics['top1'] <= 100 and again.num_classes == 10",
        "assert {type(gate) for _, _, gate in zoo.attention_slots(model)} == {Half}",
        "assert all(each.gate == 'eca' for each in maps.values()) and len(maps) == len(zoo.attention_slots(again))",
    ]
    script.write_text("\n".join([*code, *checks]))
    done = subprocess.run([sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "gates take over" in done.stdout  # what swap_attention did, printed by the first block


def test_every_verb_and_option_exists():
    pages = README + (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    shell = "\n".join(content for language, content in _blocks(pages) if language != "python")
    commands = typer.main.get_command(app).commands
    named = set(re.findall(r"^zoo (\w+)", shell, flags=re.MULTILINE))
    assert named == set(commands)
    leaves = [leaf for command in commands.values() for leaf in getattr(command, "commands", {"": command}).values()]  # zoo bench loss
    options = {option for command in leaves for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"(?<!\S)\(?(--[\w-]+)", shell)) <= options


def test_every_make_target_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert (
        set(re.findall(r"\bmake ([a-z-]+)\b", "".join(re.findall(r"`make [a-z-]+`|^make [a-z-]+$", README, flags=re.MULTILINE)))) <= targets
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    assert _missing_links(page) == []


def test_a_link_to_nowhere_is_found(tmp_path):
    (tmp_path / "there.md").touch()
    page = tmp_path / "page.md"
    page.write_text("[a](there.md#part) [b](gone.md) [c](https://example.org/x)\n```\n[d](code.md)\n```\n")
    assert _missing_links(page) == ["gone.md"]

"""docs/report.md and the pictures in it."""

import re
from pathlib import Path

import pytest
import typer
from PIL import Image

import zoo
from zoo.cli.app import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "report.md").read_text(encoding="utf-8")


def test_commands_and_functions_exist():
    command = typer.main.get_command(app).commands["report"]
    options = {option for parameter in command.params for option in parameter.opts}
    shell = re.findall(r"^zoo report .*$", TEXT, flags=re.MULTILINE)
    assert len(shell) == 2 and set(re.findall(r"(?<= )--[a-z-]+", " ".join(shell))) <= options
    assert "zoo.write_report(" in TEXT and callable(zoo.write_report)


@pytest.mark.parametrize("name", ["light", "dark", "phone"])
def test_pictures(name):
    path = DOCS / "pictures" / f"report-{name}.png"
    assert f"pictures/{path.name}" in TEXT and path.stat().st_size < 300_000
    assert len(Image.open(path).convert("RGB").getcolors(1 << 24)) > 30

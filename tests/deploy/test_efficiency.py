"""The script that writes docs/results/efficiency.md, tried on tiny networks from end to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs/results/efficiency.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, "--tiny", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.long
def test_every_cell_is_measured_and_nothing_is_made_twice(tmp_path):
    arguments = ("--runs", tmp_path / "runs", "--out", tmp_path, "--jobs", 2, "--rounds", 2)
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "efficiency.md").read_text()
    assert "not measured" not in table and "did not work" not in table
    found = json.loads((tmp_path / "efficiency.json").read_text())
    assert all("error" not in each and each["minutes"] > 0 for each in found["runs"].values())
    assert {each["network"] for each in found["speed"]["digits"]["cells"]} >= {"digits-se", "digits-se-half", "digits-cbam-large-onnx-int8"}
    assert all(each["command"].startswith("zoo ") for each in found["runs"].values())
    again = run(*arguments)
    assert again.returncode == 0 and not again.stdout
    assert (tmp_path / "efficiency.md").read_text() == table
    assert run(*arguments, "--only", "speed").returncode == 0
    parts = json.loads((tmp_path / "efficiency.json").read_text())["speed"]
    for name, part in parts.items():  # of two measurements that of the faster floats
        first, second = part["floats_took"]
        assert found["speed"][name]["floats_took"] == [first]
        assert (part["cells"] == found["speed"][name]["cells"]) == (first < second)


def test_a_run_of_another_name_is_refused(tmp_path):
    done = run("--runs", tmp_path / "runs", "--out", tmp_path, "--take", f"digits-nothing={tmp_path}")
    assert done.returncode == 2 and "expected one of digits-se" in done.stderr

"""The command line, called in this process; tiny data on disk; one trained run of each kind."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo.cli.app import run

SMALL = ("--img-size", "32", "--batch-size", "8", "--epochs", "1")
JOINT = ("image=effnet_eca_test", "text=bag")


@dataclass(frozen=True)
class Said:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be JSON and nothing else."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Disk:
    """A folder of class folders, and a manifest over the same pictures."""

    folder: Path
    manifest: Path


@pytest.fixture(scope="session")
def disk(tmp_path_factory) -> Disk:
    """Thirty-two pictures, half of them dark and half of them bright, each with a caption of its own."""
    root = tmp_path_factory.mktemp("disk")
    lines = ["image,label,caption,split"]
    for index in range(32):
        label = ("dark", "bright")[index % 2]
        file = root / "folder" / label / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 60, (16, 16, 3))
        Image.fromarray((noise + (index % 2) * 180).astype(np.uint8)).save(file)
        lines.append(f"{file.relative_to(root).as_posix()},{label},{label} picture {index},{'eval' if index >= 24 else 'train'}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return Disk(root / "folder", root / "manifest.csv")


@pytest.fixture(scope="session")
def classifier(disk, tmp_path_factory) -> Path:
    """A trained run; not to be written into."""
    out = tmp_path_factory.mktemp("runs") / "classifier"
    assert run(["train", "effnet_eca_test", "--data", str(disk.manifest), "--out", str(out), *SMALL]) == 0
    return out


@pytest.fixture(scope="session")
def joint(disk, tmp_path_factory) -> Path:
    """A trained run; not to be written into, but for the index that a search keeps there."""
    out = tmp_path_factory.mktemp("runs") / "joint"
    assert run(["train", *JOINT, "--data", str(disk.manifest), "--out", str(out), *SMALL]) == 0
    return out


@pytest.fixture
def zoo(capsys) -> Callable[..., Said]:
    """zoo("list", "--kinds"): the command, its exit code and what it printed."""

    def call(*arguments: Any) -> Said:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def mistake(zoo) -> Callable[..., str]:
    """mistake("show", "nothing"): the one line with which the command refuses."""

    def call(*arguments: Any) -> str:
        said = zoo(*arguments)
        assert said.code == 2, said
        told = [line for line in said.err.splitlines() if line.startswith("zoo: ")]
        assert len(told) == 1 and said.err.endswith(told[0] + "\n"), said.err
        assert "Traceback" not in said.err and not said.out
        return told[0]

    return call


@pytest.fixture
def train_mistake(mistake, disk, tmp_path) -> Callable[..., str]:
    """train_mistake("effnet_eca_test", "--lr", "-1"): the line with which `zoo train` refuses; nothing may have been written."""

    def call(*arguments: Any, data: Any = None) -> str:
        out = tmp_path / "refused"
        told = mistake("train", *arguments, "--data", disk.manifest if data is None else data, "--out", out)
        assert not out.exists()
        return told

    return call

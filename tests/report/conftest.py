"""Trained runs to report on: tiny networks, drawn pictures, and names that a page must not stumble over."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.train.randomness import seed_everything

HOSTILE = ("<script>window.broken = 1</script>", "\u05e9\u05dc\u05d5\u05dd \u202e", "漢字 & \"quotes\" 'and' {{ 7 * 7 }}")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A manifest of pictures in three shades with labels and captions."""
    root = tmp_path_factory.mktemp("drawn")
    lines = ["image\tlabel\tcaption\tsplit"]
    for number in range(48):
        kind = number % 3
        noise = np.random.default_rng(number).integers(0, 90, (24, 20, 3))
        Image.fromarray((noise + kind * 60).astype(np.uint8)).save(root / f"{number}.png")
        split = "eval" if number >= 30 else "train"
        lines.append(f"{number}.png\t{HOSTILE[kind]}\tshade {number} <img src=x onerror=window.broken=2> {HOSTILE[kind]}\t{split}")
    (root / "drawn.tsv").write_text("\n".join(lines).replace('"', "''") + "\n", encoding="utf-8")
    return root / "drawn.tsv"


def trained(model, data: Path, out: Path, *, epochs: int = 2) -> Path:
    """A run that is whole in a second or two."""
    opened = zoo.open_data(data)
    seed_everything(0)
    task = zoo.create_task(model, opened, img_size=32, augment="shift")
    zoo.fit(task, opened.train, opened.eval, zoo.TrainConfig(out=str(out), epochs=epochs, batch_size=8), about={"data": opened.name})
    return out


@pytest.fixture(scope="session")
def classifier(drawn, tmp_path_factory) -> Path:
    """A trained run; not to be written into."""
    return trained("effnet_cbam_test", drawn, tmp_path_factory.mktemp("runs") / "classifier")


@pytest.fixture(scope="session")
def joint(drawn, tmp_path_factory) -> Path:
    """A trained run; not to be written into."""
    return trained({"image": "effnet_eca_test", "text": "bag"}, drawn, tmp_path_factory.mktemp("runs") / "joint")

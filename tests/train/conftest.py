"""Small real things to train: pictures of two kinds that anybody can tell apart, and words for them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.datasets import Data, Split

WORDS = ("dark picture", "bright picture")


def _pixels(index: int) -> np.ndarray:
    noise = np.random.default_rng(index).integers(0, 60, (16, 16, 3))
    return (noise + (index % 2) * 180).astype(np.uint8)


def read(index: int) -> dict:
    return {"image": Image.fromarray(_pixels(index)), "label": index % 2, "text": f"{WORDS[index % 2]} {index // 2}"}


def read_eval(index: int) -> dict:
    return read(1000 + index)


@pytest.fixture
def data() -> Data:
    columns = ("image", "label", "text")
    return Data(
        "two kinds", Split(48, read, columns), Split(16, read_eval, columns), classes=("dark", "bright"), img_size=32, augment="shift"
    )


@pytest.fixture(scope="session")
def tiny():
    """What `golden/make.py` defines: a task of 200 numbers, and `train(out, task, **config)`."""
    spec = importlib.util.spec_from_file_location("golden_make", Path(__file__).with_name("golden") / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""Small real things to train: pictures of two kinds that anybody can tell apart, and words for them."""

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

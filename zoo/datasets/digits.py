"""digits: the 1,797 handwritten digits, 8x8 pixels of 17 greys, that scikit-learn carries.

Real data that needs no download and is learnt in seconds: the first thing to train on. The split is fixed: 1,437 to train on and 360 held
out by scikit-learn's `train_test_split(test_size=0.2, stratify=label, random_state=0)` over the row numbers, each side in the original
order.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (its test set).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from registry import DATASETS

from .data import Data, Row, Split


@dataclass(frozen=True)
class _Digits:
    pixels: np.ndarray  # [rows, 8, 8] uint8
    labels: np.ndarray  # [rows]

    def __call__(self, index: int) -> Row:
        return {"image": Image.fromarray(self.pixels[index]).convert("RGB"), "label": int(self.labels[index])}


@DATASETS.register("digits")
def digits() -> Data:
    """Rows `image` (8x8, white on black) and `label`.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError('the dataset "digits" comes with scikit-learn: pip install "effnet-zoo[demo]"') from error

    source = load_digits()
    pixels = np.round(source.images * (255 / 16)).astype(np.uint8)
    labels = source.target
    train, held = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)

    def split(rows: np.ndarray) -> Split:
        rows = np.sort(rows)
        return Split(len(rows), _Digits(pixels[rows], labels[rows]), ("image", "label"))

    return Data(
        name="digits",
        train=split(train),
        eval=split(held),
        classes=tuple(str(digit) for digit in range(10)),
        img_size=32,
        augment="shift",
        about="1,797 handwritten digits of 8x8 pixels (scikit-learn)",
    )

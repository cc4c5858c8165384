"""Pictures inside of a page."""

import base64
import io

import pytest
from PIL import Image

from zoo.report.thumbnail import SIDE, thumbnail


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I", "F", "LA"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (900, 300)])
def test_any_picture(mode, size):
    kind, _, data = thumbnail(Image.new(mode, size)).partition(";base64,")
    back = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == f"data:image/{back.format.lower()}" and max(back.size) == min(SIDE, max(size))
    assert kind == ("data:image/jpeg" if size[0] > 48 else "data:image/png")

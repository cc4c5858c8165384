"""A picture as a data: URI, so that a page needs no other file."""

import base64
import io

from PIL import Image

SIDE = 176  # pixels: twice what it is shown at on a desk
_TINY = 48  # a picture of so few pixels is kept as it is: it is small, and JPEG would smear it


def thumbnail(picture: Image.Image, side: int = SIDE) -> str:
    """`data:image/...;base64,...` of a picture of any mode and size, no side longer than `side`."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    tiny = max(small.size) <= _TINY
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True) if tiny else small.save(buffer, "JPEG", quality=82, optimize=True)
    return f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"

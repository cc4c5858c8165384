"""The bytes of a picture that a stranger sends, to the picture; and pictures to bytes for the page.

Only five formats are tried, those of the web and of cameras, whatever the bytes call themselves; the header is read and held against the
limit before anything is decoded; it is decoded in memory. Nothing in a request is ever a name of a file.
"""

import base64
import io

from PIL import Image

from ..datasets.picture import as_seen
from .limits import Limits
from .problem import Problem

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp")
_EXACT = 128  # up to so many pixels a side a picture is sent as it is
KNOWN = "a picture as JPEG, PNG, WebP, GIF or BMP"


def decode(content: bytes, limits: Limits) -> Image.Image:
    """The picture in mode RGB, upright, as `zoo predict` reads files; the first frame of an animation.

    Raises:
        Problem: 422 where it is no such picture or cannot be decoded, 413 where it has too many pixels.
    """
    if not content:
        raise Problem(422, "no_picture", "The picture is empty.", got="0 bytes", expected=KNOWN)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height <= limits.pixels:
                return as_seen(opened)
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own bounds, which are higher than ours by default
        width, height = 0, 0
    except Exception as error:  # image libraries raise a dozen kinds
        if isinstance(error, Image.UnidentifiedImageError):
            what = f"{len(content):,} bytes that begin with {content[:8]!r}"
            raise Problem(422, "no_picture", "These bytes are no picture that is read here.", got=what, expected=KNOWN) from error
        told = " ".join(str(error).split()) or type(error).__name__
        raise Problem(422, "broken_picture", f"The picture cannot be decoded: {told[:200]}.", expected="a whole picture") from error
    got = f"{width:,} x {height:,}" if width else f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    raise Problem(
        413,
        "too_many_pixels",
        "The picture has too many pixels; it was not decoded.",
        got=got,
        expected=f"at most {limits.pixels:,} pixels",
    )


def encode(picture: Image.Image, most: int) -> tuple[bytes, str]:
    """(bytes, type) of a picture no larger than `most` pixels a side: small ones as PNG, exactly, others as JPEG."""
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    exact = max(picture.size) <= _EXACT
    if not exact:
        picture = picture.copy()
        picture.thumbnail((most, most))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG" if exact else "JPEG", **({} if exact else {"quality": 88}))
    return buffer.getvalue(), "image/png" if exact else "image/jpeg"


def as_url(picture: Image.Image, most: int) -> str:
    """The picture as a data: URL, for a page that may load nothing from elsewhere."""
    content, kind = encode(picture, most)
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

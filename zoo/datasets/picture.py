"""A picture file to the RGB picture that a person sees.

A camera's EXIF rotation is carried out, palettes are looked up, transparency is laid on white, 16-bit grey is scaled to 8 bits.
Whatever is wrong with a file is one BrokenPicture that names it: image libraries raise a dozen kinds, some of which name nothing. What is
wrong with the machine (a failing disk, too many open files, no permission, no memory) says nothing about the picture, and stays what it is.
"""

import errno
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_GONE = {errno.ENOENT: "no such file", errno.ENOTDIR: "no such file", errno.EISDIR: "a folder, not a picture"}
_OF_THE_FILE = (None, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, *_GONE)  # Pillow's own have none; a wrong offset is an EINVAL


class BrokenPicture(ValueError):
    """A picture that can not be read, whoever reads it and however often.

    Args:
        path: of the file.
        why: what is wrong with it.
        where: what names the file, such as a line of a manifest.
    """

    def __init__(self, path: str, why: str, where: str = ""):
        super().__init__(path, why, where)  # all of them, so that it can be pickled
        self.path, self.why, self.where = path, why, where

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.path, self.why) if part)


def read_picture(path: str | PathLike[str]) -> Image.Image:
    """The decoded picture in mode RGB; the first frame of an animation.

    A picture of more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (89 million; yours to set) is taken for a decompression bomb, and refused by
    its header.

    Raises:
        BrokenPicture: the file is missing, is no picture, is cut off, is a bomb, or has pixels without a known white (32-bit integers,
            floats).
        OSError: the file could not be read for a reason that lies elsewhere; it names the file.
    """
    with _opened(path) as opened:
        return as_seen(opened)


def decode_picture(content: bytes, name: str) -> Image.Image:
    """The same of a picture that is in memory.

    Args:
        content: the bytes of its file.
        name: what messages call it.

    Raises:
        BrokenPicture: as `read_picture`.
    """
    with _opened(name, content) as opened:
        return as_seen(opened)


def check_picture(path: str | PathLike[str]) -> None:
    """Look at the header alone: tens of times faster than `read_picture`, and blind to what is wrong further on.

    Raises:
        BrokenPicture: the file is missing, is no picture, or is a bomb.
        OSError: the file could not be read for a reason that lies elsewhere; it names the file.
    """
    with _opened(path):
        pass


@contextmanager
def _opened(path: str | PathLike[str], content: bytes | None = None) -> Iterator[Image.Image]:
    """The picture of a file, or of the content that its name stands for, its header read; what goes wrong is told with its name."""
    name = os.fspath(path)
    try:
        source = name if content is None else io.BytesIO(content)
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning), Image.open(source) as opened:
            yield opened
    except MemoryError:
        raise
    except OSError as error:
        if error.errno not in _OF_THE_FILE:
            raise OSError(error.errno, error.strerror, name) from error
        raise BrokenPicture(name, _why(name, content, error)) from error
    except Exception as error:
        raise BrokenPicture(name, _why(name, content, error)) from error


def as_seen(opened: Image.Image) -> Image.Image:
    """Pillow's picture, decoded if it was not, in mode RGB: what a person sees. Raises whatever the decoder raises."""
    picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {picture.mode} have no known white; expected 8 or 16 bits")
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(white, seen).convert("RGB")
    return picture.convert("RGB")


def _why(path: str, content: bytes | None, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in _GONE:
        return _GONE[error.errno]
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        limit = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        return f"a decompression bomb: {limit}, and nothing was decoded; PIL.Image.MAX_IMAGE_PIXELS sets the limit"
    if isinstance(error, UnidentifiedImageError):
        size = os.path.getsize(path) if content is None else len(content)
        return "not a picture in a format that Pillow knows" if size else "an empty file"
    return str(error) or type(error).__name__

"""A picture file to the RGB picture that a person sees.

A camera's EXIF rotation is carried out, palettes are looked up, transparency is laid on white, 16-bit grey is scaled to 8 bits.
Whatever goes wrong is one ValueError that names the file: image libraries raise a dozen kinds, some of which name nothing.
"""

import io
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def read_picture(path: str | PathLike[str]) -> Image.Image:
    """The decoded picture in mode RGB; the first frame of an animation.

    Raises:
        ValueError: the file is missing, is no picture, is cut off, or has pixels without a known white (32-bit integers, floats).
    """
    try:
        with Image.open(path) as opened:
            return _to_rgb(ImageOps.exif_transpose(opened))
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: {_why(path, error)}") from error


def decode_picture(content: bytes, name: str) -> Image.Image:
    """The same of a picture that is in memory.

    Args:
        content: the bytes of its file.
        name: what messages call it.

    Raises:
        ValueError: as `read_picture`.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return _to_rgb(ImageOps.exif_transpose(opened))
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{name}: {_why(name, error) if content else 'an empty file'}") from error


def check_picture(path: str | PathLike[str]) -> None:
    """Look at the header alone: tens of times faster than `read_picture`, and blind to what is wrong further on.

    Raises:
        ValueError: the file is missing or is no picture.
    """
    try:
        with Image.open(path):
            pass
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: {_why(path, error)}") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
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


def _why(path: str | PathLike[str], error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a picture"
    if isinstance(error, UnidentifiedImageError):
        return "an empty file" if Path(path).is_file() and Path(path).stat().st_size == 0 else "not a picture in a format that Pillow knows"
    return str(error) or type(error).__name__

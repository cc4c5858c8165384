"""The pictures that a person names: files, folders of files, a video, a camera. What can not be read is named, and no error."""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import timm.data
from PIL import Image

from ..datasets import BrokenPicture, read_picture
from ..datasets.folder import MORE_EXTENSIONS

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
_CAMERA = "camera:"


@dataclass(frozen=True)
class Seen:
    """One picture.

    Args:
        file: of it, or of its video, or "camera:0".
        frame: of a video or camera, counted from 0; None: a picture file.
        picture: None where it can not be read.
        why: it can not.
    """

    file: str
    frame: int | None
    picture: Image.Image | None
    why: str = ""


def is_camera(source: str) -> bool:
    return source.startswith(_CAMERA)


def open_sources(sources: Sequence[str], *, every: int = 1, most: int | None = None) -> tuple[int | None, Iterator[Seen]]:
    """How many pictures there are, None where that is not known before, and the pictures.

    Args:
        sources: picture files, folders (looked through to their ends, hidden ones aside), video files, `camera:NUMBER`.
        every: of a video or camera one frame in so many.
        most: frames of a video or camera, at most.

    Raises:
        ImportError: a video or a camera, and OpenCV is not installed.
        ValueError: a folder without a picture, or a camera that is none.
    """
    counts: list[int | None] = []
    found: list[Iterator[Seen]] = []
    for source in sources:
        path = Path(source)
        if is_camera(source):
            number = source.removeprefix(_CAMERA)
            if not number.isdecimal():
                raise ValueError(f"{source}: expected the number of a camera, such as camera:0")
            _library()
            counts.append(most)
            found.append(_frames(source, int(number), every, most))
        elif path.is_dir():
            files = pictures_in(path)
            if not files:
                raise ValueError(f"{source}: no picture in this folder ({', '.join(_extensions())})")
            counts.append(len(files))
            found.append(map(_read, files))
        elif path.suffix.lower() in VIDEOS and path.is_file():
            count = _length(source)
            counts.append(count if count is None else min(-(-count // every), count if most is None else most))
            found.append(_frames(source, source, every, most))
        else:
            counts.append(1)
            found.append(map(_read, [source]))
    total = None if None in counts else sum(each for each in counts if each is not None)
    return total, itertools.chain.from_iterable(found)


def _extensions() -> tuple[str, ...]:
    return (*timm.data.get_img_extensions(), *MORE_EXTENSIONS)


def pictures_in(folder: Path) -> list[str]:
    """Picture files of a folder and those below it, in the order of their names."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        named = (file for file in sorted(files) if not file.startswith(".") and Path(file).suffix.lower() in _extensions())
        found += [os.path.join(root, file) for file in named]
    return found


def _read(file: str) -> Seen:
    try:
        return Seen(file, None, read_picture(file))
    except BrokenPicture as error:
        return Seen(file, None, None, error.why)
    except OSError as error:  # no permission, a failing disk
        return Seen(file, None, None, error.strerror or str(error))


def _library() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise ImportError("videos and cameras are read by OpenCV: pip install 'effnet-zoo[video]'") from error
    return cv2


def _length(file: str) -> int | None:
    """Frames of a video, as its header has it."""
    cv2 = _library()
    video = cv2.VideoCapture(file)
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 1
    video.release()
    return count if count > 0 else None


class _Capture:
    """A video or a camera, open; closed with `closing`."""

    def __init__(self, what: str | int):
        self.cv2: Any = _library()
        self.video = self.cv2.VideoCapture(what)

    def close(self) -> None:
        self.video.release()

    def skip(self) -> bool:
        return self.video.grab()

    def picture(self) -> Image.Image | None:
        there, frame = self.video.retrieve()
        return Image.fromarray(self.cv2.cvtColor(frame, self.cv2.COLOR_BGR2RGB)) if there else None


def _frames(name: str, what: str | int, every: int, most: int | None) -> Iterator[Seen]:
    with closing(_Capture(what)) as capture:
        if not capture.video.isOpened():
            yield Seen(
                name, None, None, "no such camera, or another program has it" if is_camera(name) else "not a video that OpenCV can read"
            )
            return
        given = 0
        for number in itertools.count():
            if most is not None and given >= most:
                return
            if not capture.skip():
                break
            if number % every == 0:
                picture = capture.picture()
                yield Seen(name, number, picture, "" if picture is not None else "this frame can not be decoded")
                given += 1
        if not given:
            yield Seen(name, None, None, "a video without a frame" if not is_camera(name) else "the camera gives no picture")

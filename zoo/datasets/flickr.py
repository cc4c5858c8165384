"""Captions as Flickr8k and Flickr30k come: `1000092795.jpg#0<TAB>Two young men ...`, or Kaggle's captions.txt, `image,caption`.

Where Flickr_8k.trainImages.txt and the like lie beside the file, they say what is for training (trainImages), validation (devImages) and
test (testImages); else a fifth of the pictures is held out.

Hodosh et al., "Framing Image Description as a Ranking Task", JAIR 2013; Young et al., "From Image Descriptions to Visual Denotations",
TACL 2014.
"""

import os
import re
from os import PathLike
from pathlib import Path

from .captions import captioned
from .data import Data

_LINE = re.compile(r"(?P<file>[^\t]+?)(?:#\d+)?\t(?P<text>.*)|(?P<kaggle>[^,\t]+\.\w+),(?P<rest>.*)")
_LISTS = {"train": "trainImages", "val": "devImages", "test": "testImages"}
_FOLDERS = (
    "",
    "images",
    "Images",
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "flickr30k-images",
    "flickr30k_images",
)  # the first 8k is theirs


def read_flickr(path: str | PathLike[str], split: str | None = None, *, broken: bool = False) -> Data:
    """Rows `image` and `text`, a row a caption.

    Args:
        path: the file of captions (.token, .token.txt, captions.txt). Pictures are looked for beside it and one folder up, there and in
            the folders that the data sets come with.
        split: what eval is, where lists of pictures lie beside the file: "val" (by default) or "test".
        broken: open it also where pictures are missing: whoever reads such a row meets a BrokenPicture.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line that is none of a picture and a caption, or pictures that are not there.
    """
    source = Path(os.path.abspath(path))
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(_text(source).split("\n"), start=1):
        if not line.strip() or (number == 1 and line.strip().lower() == "image,caption"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(
                f"{source}, line {number}: expected PICTURE#0, a tab and a caption, or PICTURE,caption; got {line.strip()[:40]!r}"
            )
        text = found["text"] if found["file"] else _unquoted(found["rest"])
        of_picture = captions.setdefault(found["file"] or found["kaggle"], [])
        if text.strip():
            of_picture.append(text.strip())
    splits: dict[str, str] = {}
    for word, name in _LISTS.items():
        for listed in sorted(source.parent.glob(f"*{name}.txt")):
            splits |= dict.fromkeys(_text(listed).split(), word)
    return captioned(source, _FOLDERS, captions, splits, split, broken=broken)


def _text(source: Path) -> str:
    try:
        return source.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def _unquoted(text: str) -> str:
    """Kaggle's captions have commas, some of them in quotes and some not, so the csv module cannot read the file."""
    text = text.strip()
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text

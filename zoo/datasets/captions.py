"""Pictures with several captions each: what the readers of COCO's and Flickr's files have in common.

A row is one caption with its picture. Captions of a picture are on the same side, and right answers for each other. Whether every picture
is there is looked at when the file is opened; no picture is.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry import nearest

from .data import Data, Row, Split
from .picture import read_picture
from .splits import EVAL_WORDS, held_out


@dataclass(frozen=True)
class _Captions:
    files: tuple[str, ...]
    texts: tuple[str, ...]
    rows: np.ndarray  # [rows], which file

    def __call__(self, index: int) -> Row:
        return {"image": read_picture(self.files[self.rows[index]]), **self.cells(index)}

    def cells(self, index: int) -> Row:
        return {"text": self.texts[index]}

    def path(self, index: int) -> str:
        return self.files[self.rows[index]]


def captioned(
    source: Path,
    folders: Sequence[str],
    captions: Mapping[str, Sequence[str]],
    splits: Mapping[str, str],
    held: str | None,
    *,
    broken: bool = False,
) -> Data:
    """Rows `image` and `text`.

    Args:
        source: the file that was read.
        folders: where the pictures may be, beside the file or one folder up; "" is that place itself.
        captions: of every picture, by its path within that folder.
        splits: picture to "train" or another word, a picture without one is left out; empty: a fifth is held out by a hash of the names.
        held: the word whose pictures are eval; by default the first of eval, val, valid, validation, test that there is.
        broken: pictures that are not there are no error: whoever reads such a row meets a BrokenPicture.

    Raises:
        ValueError: no caption, a picture that is not there, or no picture of the word.
    """
    captions = {name: texts for name, texts in captions.items() if texts}
    if not captions:
        raise ValueError(f"{source}: no captions")
    words = sorted({splits[name] for name in captions if name in splits})
    if words:
        held = held or next((word for word in EVAL_WORDS if word in words), "eval")
        if held not in (*words, "eval"):
            raise ValueError(f"{source}: no picture is of the split {held!r}; {nearest(held, words)}")
        sides = [[name for name in captions if splits.get(name) == word] for word in ("train", held)]
    elif held:
        raise ValueError(f"{source}: the split {held!r} is asked for, but nothing tells the splits")
    else:
        out = dict(zip(captions, held_out(list(captions)), strict=True))
        sides = [[name for name in captions if out[name] == side] for side in (False, True)]

    names = [*sides[0], *sides[1]]
    if not names:
        raise ValueError(f"{source}: no picture is of the split train or {held}; there is {', '.join(words)}")
    tried = [base / folder for base in (source.parent, source.parent.parent) for folder in folders]
    looked_for = names if broken else names[:1]
    root = next((folder for name in looked_for for folder in tried if (folder / name).is_file()), None)
    if root is None:
        raise ValueError(f"{source}: the picture {names[0]} is in none of {', '.join(map(str, tried))}")
    if not broken and (gone := [name for name in names if not os.path.isfile(root / name)]):
        raise ValueError(f"{source}: {len(gone):,} of {len(names):,} pictures are not there; the first is {root / gone[0]}")
    number = {name: index for index, name in enumerate(names)}

    def split(chosen: Sequence[str]) -> Split:
        texts = tuple(text for name in chosen for text in captions[name])
        rows = np.repeat(np.arange(len(chosen)), [len(captions[name]) for name in chosen])
        ids = np.array([number[name] for name in chosen], dtype=np.int64)[rows]
        reader = _Captions(tuple(str(root / name) for name in chosen), texts, rows)
        return Split(len(texts), reader, ("image", "text"), ids=ids, pictures=ids, cells=reader.cells, paths=reader.path)

    both = split(sides[0]), split(sides[1])
    about = f"{len(both[0]) + len(both[1]):,} captions of {len(names):,} pictures"
    return Data(name=str(source), train=both[0], eval=both[1], about=about)

"""A folder of class folders: the name of the folder is the label of every picture in it, however deep.

Two layouts: ROOT/train/CLASS/* beside ROOT/val/CLASS/* (or eval, valid, validation, test), or ROOT/CLASS/*, of which about a fifth of every
class is held out by a hash of the file name. Hidden files are passed over. Nothing is decoded at opening.
"""

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from registry import nearest

from .data import Data, Row, Split
from .picture import read_picture
from .splits import EVAL_WORDS, held_out, sort_classes

MORE_EXTENSIONS = (".webp", ".bmp", ".gif", ".tif", ".tiff")  # timm's own are .png, .jpg and .jpeg: a webp would be dropped in silence
_LAYOUTS = "expected two class folders or more, CLASS/*.jpg, or train/CLASS/*.jpg beside " + " or ".join(f"{word}/" for word in EVAL_WORDS)


@dataclass(frozen=True)
class _Pictures:
    paths: tuple[str, ...]
    labels: np.ndarray  # [rows]

    def __call__(self, index: int) -> Row:
        return {"image": read_picture(self.paths[index]), **self.cells(index)}

    def cells(self, index: int) -> Row:
        return {"label": int(self.labels[index])}


def read_folder(path: str | PathLike[str]) -> Data:
    """Rows `image` and `label`; classes sorted by name, or by number if all are whole numbers.

    Extensions are those that timm reads (`timm.data.add_img_extensions` adds to them), and webp, bmp, gif and tiff. The only picture of a
    class is for training. In the first layout, other folders beside the two are left alone; where there is val/ and test/, eval is val/.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: fewer than two class folders, a class folder without a picture, a class for eval that training does not have.
    """
    root = Path(os.path.abspath(path))
    if not root.is_dir():
        raise FileNotFoundError(f"{path}: {'a file, not a folder' if root.exists() else 'no such folder'}; {_LAYOUTS}")
    inside = {folder.name.lower(): folder for folder in _folders(root)}
    eval_folder = next((inside[word] for word in EVAL_WORDS if word in inside), None)
    if "train" in inside and eval_folder is not None:
        train, held = _pictures(inside["train"]), _pictures(eval_folder, least=1)
        for name in sorted(held.keys() - train.keys()):
            raise ValueError(f"{eval_folder / name}: the class {name!r} is not in {inside['train']}; {nearest(name, sorted(train))}")
    else:
        train, held = {}, {}
        for name, files in _pictures(root).items():
            out = held_out([file.relative_to(root / name).as_posix() for file in files])
            train[name] = [file for file, is_out in zip(files, out, strict=True) if not is_out]
            held[name] = [file for file, is_out in zip(files, out, strict=True) if is_out]

    classes = sort_classes(train)
    label = {name: index for index, name in enumerate(classes)}

    def split(files: dict[str, list[Path]]) -> Split:
        rows = [(str(file), label[name]) for name in classes for file in files.get(name, ())]
        reader = _Pictures(tuple(file for file, _ in rows), np.array([number for _, number in rows], dtype=np.int64))
        return Split(len(rows), reader, ("image", "label"), cells=reader.cells, paths=reader.paths.__getitem__)

    both = split(train), split(held)
    about = f"{len(both[0]) + len(both[1]):,} pictures in {len(classes):,} class folders"
    return Data(name=str(root), train=both[0], eval=both[1], classes=classes, about=about)


def _pictures(root: Path, least: int = 2) -> dict[str, list[Path]]:
    """The pictures of every class folder in `root`, of which there must be at least so many."""
    from timm.data import get_img_extensions

    extensions = (*get_img_extensions(), *MORE_EXTENSIONS)
    found: dict[str, list[Path]] = {}
    other: dict[str, list[Path]] = {}
    for folder in _folders(root):
        files = _files(folder)
        found[folder.name] = [file for file in files if file.suffix.lower() in extensions]
        other[folder.name] = files
    if len(found) < least:
        loose = sum(file.suffix.lower() in extensions for file in root.iterdir())
        got = "no class folder" if not found else f"one class folder ({next(iter(found))!r})"
        beside = f" and {loose:,} pictures outside of any" if loose else ""
        deeper = next((folder for folder in _folders(root) if len(_folders(folder)) > 1), None)
        hint = f"; did you mean {deeper}?" if deeper else ""
        raise ValueError(f"{root}: {got}{beside}; {_LAYOUTS}{hint}")
    for name, pictures in found.items():
        if not pictures:
            suffixes = sorted({file.suffix.lower() or file.name for file in other[name]})
            got = f"no picture, only {', '.join(suffixes[:5])}" if suffixes else "an empty class folder"
            expected = ", ".join(f"*{each}" for each in extensions)
            raise ValueError(f"{root / name}: {got}; expected at least one of {expected}, or remove the folder")
    return found


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    """Every file in the folder and below, hidden ones left out, in the order of their paths."""
    files: list[Path] = []
    for here, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(here, name) for name in names if not name.startswith(".")]
    return sorted(files)

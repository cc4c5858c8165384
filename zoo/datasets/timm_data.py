"""Data by the strings that timm's `create_dataset` reads, behind `timm:`.

    timm:DIR   timm:FILE.tar                            pictures in class folders, and those of an archive
    timm:torch/cifar10,root=DIR,download=true           torchvision's
    timm:hfds/NAME   timm:hfids/NAME   timm:wds/NAME    Hugging Face's, the same read forward, WebDataset's

timm finds and labels the pictures; they are opened as all others are, so that a broken one is told, and not the next one in its place.
Rows are at hand, but for hfids, which is read forward.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import DatasetFolder

from registry import nearest

from .data import Data, Row, Split
from .data_string import take_apart, yes
from .hf import read_hf
from .picture import decode_picture
from .shards import open_shards
from .splits import EVAL_WORDS, held_out

_SCHEMES = ("torch", "hfds", "hfids", "tfds", "wds")
_TORCH: dict[str, dict[str, Any]] = {  # torchvision's as timm calls them, and what suits them
    **{name: {"img_size": 32} for name in ("cifar10", "cifar100", "fashion_mnist")},
    **{name: {"img_size": 32, "augment": "shift"} for name in ("mnist", "kmnist", "qmnist")},  # a mirrored digit is none
    **{name: {} for name in ("imagenet", "inaturalist", "places365", "image_folder")},
}
_OPTIONS = {"root": "DIR", "train": "train", "eval": "validation", "download": "true", "input_key": "image", "target_key": "label"}


def read_timm(data: str) -> Data:
    """Rows `image` and `label`.

    Where eval is not named, it is the first of validation, val, valid, eval and test that there is. Where there is none, or one folder for
    both, about a fifth of every class is held out by a hash of the pictures' names (or places, if they have none).

    Args:
        data: "timm:STRING" with the options `root`, `train` and `eval` (splits, as timm calls them), `download`, `input_key` and
            `target_key`.

    Raises:
        FileNotFoundError: no such folder, or data that was not downloaded.
        ImportError: the library that the string needs is not installed.
        ValueError: an unknown scheme, data set or split; one that has no class names, or whose sides have other classes.
    """
    what, given = take_apart(data, _OPTIONS)
    scheme, slash, rest = what.partition("/")
    scheme = scheme.lower() if slash and scheme.lower() in _SCHEMES and not os.path.exists(what) else ""
    if scheme and not rest:
        raise ValueError(f"data {data!r}: expected a name behind {scheme}/")
    if "root" in given or not scheme:
        given["root"] = os.path.abspath(given["root"] if scheme else what)
        if not os.path.exists(given["root"]) and not yes(data, given, "download"):
            unknown = "" if slash or scheme else f"; or one of {'/, '.join(_SCHEMES)}/"
            raise FileNotFoundError(f"data {data!r}: no such folder or .tar file: {given['root']}{unknown}")
    options = ",".join(f"{key}={value}" for key, value in given.items() if scheme or key != "root")
    name = f"timm:{what if scheme else given['root']}{options and f',{options}'}"
    if scheme == "tfds":
        raise ValueError(f"data {data!r}: TensorFlow's data come in an order that no run can be resumed in; hf: has most of the same data")
    if scheme == "hfids":
        return _renamed(name, read_hf(_as_hf(rest, given)))
    if scheme == "wds":
        return _wds(data, name, given, what)
    return _at_hand(data, name, scheme, rest, what, given)


def _renamed(name: str, data: Data) -> Data:
    return Data(name=name, train=data.train, eval=data.eval, classes=data.classes, about=data.about)


def _as_hf(rest: str, given: Mapping[str, str]) -> str:
    names = {"train": "train", "eval": "eval", "input_key": "image", "target_key": "label"}
    return ",".join([f"hf:{rest}", *(f"{names[key]}={value}" for key, value in given.items() if key in names), "streaming=true"])


def _made(data: str, what: str, split: str, given: Mapping[str, str], **more: Any) -> Any:
    """timm's dataset; its many errors as one kind."""
    from timm.data import create_dataset

    keys: dict[str, Any] = {key: given[key] for key in ("input_key", "target_key") if key in given}
    try:
        return create_dataset(what, root=given.get("root"), split=split, download=yes(data, given, "download"), **keys, **more)
    except (ImportError, ModuleNotFoundError) as error:
        extra = {"hfds": "datasets", "wds": "wds"}.get(what.partition("/")[0].lower())
        hint = f": pip install 'effnet-zoo[{extra}]'" if extra else ""
        raise ImportError(f"data {data!r}: {error}{hint}") from error
    except (AssertionError, RuntimeError, ValueError, OSError, TypeError, KeyError) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        if "not found" in said.lower() and "download" in said.lower():
            raise FileNotFoundError(f"data {data!r}: it is not in {given.get('root')}; download=true fetches it") from error
        raise ValueError(f"data {data!r}, split {split!r}: {said}") from error


# Rows at hand.


@dataclass(frozen=True)
class _Files:
    """Of a dataset with a reader: what it opens, decoded as all pictures are."""

    source: Any
    indices: np.ndarray
    name: str

    def __call__(self, index: int) -> Row:
        file, label = self.source.reader[int(self.indices[index])]
        with file:
            content = file.read()
        return {"image": decode_picture(content, self.where(index)), "label": int(label)}

    def where(self, index: int) -> str:
        return f"{self.name}, {self.source.filename(int(self.indices[index])) or f'row {self.indices[index]}'}"


@dataclass(frozen=True)
class _Items:
    """Of torchvision's, which open their pictures themselves."""

    source: Any
    indices: np.ndarray
    name: str

    def __call__(self, index: int) -> Row:
        picture, label = self.source[int(self.indices[index])]
        return {"image": picture.convert("RGB"), "label": int(label)}

    def where(self, index: int) -> str:
        return f"{self.name}, row {self.indices[index]}"


def _at_hand(data: str, name: str, scheme: str, rest: str, what: str, given: Mapping[str, str]) -> Data:
    suits: dict[str, Any] = {}
    more: dict[str, Any] = {}
    if scheme == "torch":
        known = rest.rpartition("/")[2].lower()
        if known not in _TORCH:
            raise ValueError(f"data {data!r}: torchvision has no {known!r} for timm; {nearest(known, list(_TORCH))}")
        if "root" not in given:
            raise ValueError(f"data {data!r}: expected the folder that it is in: root=DIR")
        if idle := [key for key in ("input_key", "target_key") if key in given]:
            raise ValueError(f"data {data!r}: {idle[0]} is for data with columns")
        suits = _TORCH[known]
    elif not scheme:
        what = ""
        more = {"cache_tarfiles": False} if given["root"].endswith(".tar") else {}  # an open file must not be shared with workers
    train = _made(data, what, given.get("train", "train"), given, **more)
    held = _eval(data, what, scheme, train, given, more)
    classes = _classes(data, scheme, train)
    if held is not None and (theirs := _classes(data, scheme, held)) != classes:
        unknown = sorted({*theirs} - {*classes}) or sorted({*classes} - {*theirs})
        raise ValueError(
            f"data {data!r}: the sides have other classes, so that their labels mean other things: {unknown[0]!r} is in one only"
        )
    if scheme == "torch" and not isinstance(train[0][1], int):
        raise ValueError(f"data {data!r}: a label is {train[0][1]!r}; expected a number")
    rows: Callable[..., Any] = _Items if scheme == "torch" else _Files

    def split(source: Any, indices: np.ndarray, which: str) -> Split:
        reader = rows(source, indices, f"{name}{which}")
        return Split(len(indices), reader, ("image", "label"), where=reader.where)

    if held is not None:
        both = split(train, np.arange(len(train)), ", train"), split(held, np.arange(len(held)), ", eval")
    else:
        out = _hold_out(scheme, train, given.get("root", ""))
        both = split(train, np.flatnonzero(~out), ""), split(train, np.flatnonzero(out), "")
    about = f"{len(both[0]) + len(both[1]):,} pictures, by timm"
    return Data(name=name, train=both[0], eval=both[1], classes=classes, about=about, **suits)


def _eval(data: str, what: str, scheme: str, train: Any, given: Mapping[str, str], more: Mapping[str, Any]) -> Any:
    """timm's dataset of the other side, None where there is none."""
    tried = [given["eval"]] if "eval" in given else ["validation", *(word for word in EVAL_WORDS if word != "validation")]
    for split in tried:
        try:
            held = _made(data, what, split, given, **more)
        except ValueError:  # no such split
            if "eval" in given:
                raise
            continue
        if scheme == "hfds" or _listed(scheme, train)[0][:1] != _listed(scheme, held)[0][:1] or not len(_listed(scheme, held)[0]):
            return held  # timm takes the whole folder where it finds none of the split's name
    if "eval" in given:
        raise ValueError(f"data {data!r}: there is no folder {given['eval']!r}, and the whole would be for both sides; leave out eval=")
    return None


def _listed(scheme: str, source: Any) -> tuple[list[str], list[int]]:
    """Names and labels of the pictures; empty where a set has sides of its own, and nothing has to be held out."""
    if scheme == "hfds":
        labels = [int(label) for label in source.reader.iter_targets()]
        return [str(row) for row in range(len(labels))], labels
    if scheme == "torch":
        samples = source.samples if isinstance(source, DatasetFolder) else ()
        return [path for path, _ in samples], [label for _, label in samples]
    labels = [int(sample[1]) for sample in source.reader.samples] if not _is_tar(source.reader) else source.reader.targets.tolist()
    return source.filenames(absolute=True), labels


def _is_tar(reader: Any) -> bool:
    return str(reader.root).endswith(".tar")


def _classes(data: str, scheme: str, source: Any) -> tuple[str, ...]:
    if scheme == "torch":
        names = getattr(source, "classes", None) or getattr(source, "all_categories", None)
    else:
        number = source.reader.class_name_to_idx if scheme == "" and _is_tar(source.reader) else source.reader.class_to_idx
        names = sorted(number, key=number.__getitem__)
    if not names:
        raise ValueError(f"data {data!r}: its labels have no names; hf: reads such data, if they are Hugging Face's")
    return tuple(", ".join(each) if isinstance(each, tuple) else str(each) for each in names)  # ImageNet's names are several each


def _hold_out(scheme: str, source: Any, root: str) -> np.ndarray:
    """[rows] bool: of every class a fifth, by names that are the same wherever the folder lies."""
    names, labels = _listed(scheme, source)
    of_label: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        of_label[label].append(index)
    out = np.zeros(len(labels), dtype=bool)
    for indices in of_label.values():
        out[np.array(indices)[held_out([names[index].removeprefix(root) for index in indices])]] = True
    return out


# WebDataset's: timm knows which shards a split has.


def _wds(data: str, name: str, given: Mapping[str, str], what: str) -> Data:
    def shards(split: str) -> list[str]:
        reader = _made(data, what, split, given).reader
        return [os.path.join(reader.root, file) for file in reader.split_info.filenames]

    here = shards(given.get("train", "train"))
    tried = [given["eval"]] if "eval" in given else ["validation", *EVAL_WORDS]
    there: list[str] = []
    for split in tried:
        try:
            there = shards(split)
            break
        except ValueError:
            if "eval" in given:
                raise
    if gone := [file for file in (*here, *there) if not Path(file).is_file()]:
        raise FileNotFoundError(f"data {data!r}: {gone[0]}: no such shard; wds:URL reads shards that lie elsewhere")
    return open_shards(name, here, there)

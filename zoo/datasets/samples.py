"""What is in a WebDataset shard: files whose names are equal up to the first dot, one behind the other, are one sample.

`0001.jpg` (or jpeg, png, webp) is its picture, `0001.txt` its caption, `0001.cls` its label, `0001.json` an object with any of them:
caption or captions, label or labels.
"""

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

PICTURES = ("jpg", "jpeg", "png", "webp")
WORDS = ("txt", "cls", "json")
EXPECTED = f"expected samples such as 0001.{', 0001.'.join(PICTURES)} beside 0001.txt, 0001.cls or 0001.json"
_CAPTIONS = ("caption", "captions", "title", "text")

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """What one sample says beside its picture; raises ValueError where that is not in the form that is usual."""

    key: str
    texts: tuple[str, ...]
    label: str = ""
    labels: tuple[str, ...] | None = None

    @classmethod
    def of(cls, key: str, parts: Mapping[str, bytes]) -> "Sample":
        try:
            told = json.loads(parts["json"]) if "json" in parts else {}
            text, label = (parts[name].decode().strip() if name in parts else "" for name in ("txt", "cls"))
        except ValueError as error:
            raise ValueError(f"{key}: its text is not UTF-8, or its json no JSON: {error}") from error
        if not isinstance(told, dict):
            raise ValueError(f"{key}: its json is no object with the keys of a row")
        found = next((told[name] for name in _CAPTIONS if told.get(name)), ())
        texts = [text] if text else [found] if isinstance(found, str) else found
        if not isinstance(texts, list | tuple) or not all(isinstance(each, str) for each in texts):
            raise ValueError(f"{key}: expected a caption or a list of them, got {json.dumps(found)[:40]}")
        given = told.get("label")
        labels = told.get("labels")
        if labels is not None and not (isinstance(labels, list) and all(isinstance(each, str | int) for each in labels)):
            raise ValueError(f"{key}: labels: expected a list of names or numbers, got {json.dumps(labels)[:40]}")
        if not isinstance(given, str | int | None):
            raise ValueError(f"{key}: label: expected a name or a number, got {json.dumps(given)[:40]} (several are called labels)")
        return cls(
            key=key,
            texts=tuple(stripped for each in texts if (stripped := each.strip())),
            label=label or ("" if given is None else str(given)),
            labels=None if labels is None else tuple(str(each) for each in labels),
        )


def number_of(sample: Sample, number: Mapping[str, int], many: bool) -> int | tuple[int, ...] | None:
    if many:
        return None if sample.labels is None else tuple(sorted({number[each] for each in sample.labels}))
    return number.get(sample.label)


def name_of(shard: str, key: str) -> str:
    """What a sample is held out by: the same wherever the shards lie."""
    return f"{Path(shard).name}/{key}"


def samples(tar: tarfile.TarFile, take: Callable[[tarfile.TarInfo], T]) -> Iterator[tuple[str, T, dict[str, T]]]:
    """Key, picture and words of every sample of an archive that has a picture, each file as `take` gives it."""
    key, parts = "", dict[str, T]()
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        extension = extension.lower()
        if not member.isfile() or not stem or name.startswith("__") or extension not in (*PICTURES, *WORDS):
            continue
        this = f"{folder}/{stem}" if folder else stem
        if this != key:
            yield from _with_picture(key, parts)
            key, parts = this, {}
        parts[extension] = take(member)
    yield from _with_picture(key, parts)


def _with_picture(key: str, parts: dict[str, T]) -> Iterator[tuple[str, T, dict[str, T]]]:
    picture = next((name for name in PICTURES if name in parts), None)
    if picture is not None:
        yield key, parts[picture], {name: parts[name] for name in WORDS if name in parts}

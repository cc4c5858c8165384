"""Which columns of a Hugging Face dataset are the picture, the text and the label, and what a row of ours has of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from registry import nearest

from .data import Row
from .picture import decode_picture, read_picture
from .splits import sort_classes

_NAMES = {
    "image": ("image", "img", "picture", "jpg", "png", "webp"),
    "text": ("caption", "captions", "text", "title", "txt", "sentences"),
    "label": ("label", "labels", "cls"),
    "id": ("image_id", "id"),
}
_TAKEN = ("image", "text", "label", "labels", "id", "index")  # what a column of one's own cannot be called


@dataclass(frozen=True)
class Columns:
    """The names of the columns, and how the labels are numbered; None where there is no such column."""

    image: str | None
    text: str | None
    label: str | None
    id: str | None
    own: tuple[str, ...]
    many: bool = False
    classes: tuple[str, ...] | None = None
    by_name: Mapping[Any, int] | None = None
    """What stands in the column -> label, where it is no ClassLabel."""

    @classmethod
    def of(cls, where: str, features: Mapping[str, Any], given: Mapping[str, str]) -> "Columns":
        """From the dataset's features, and the options that name columns.

        Raises:
            ValueError: there is no such column, or nothing to learn from.
        """
        from datasets import ClassLabel, Image, Value

        if unknown := [name for name in given.values() if name not in features]:
            raise ValueError(f"{where}: there is no column {unknown[0]!r}; {nearest(unknown[0], list(features))}")
        pictures = [name for name, feature in features.items() if isinstance(feature, Image)]
        labels = [name for name, feature in features.items() if isinstance(_inner(feature), ClassLabel)]
        named = {kind: next((name for name in names if name in features), None) for kind, names in _NAMES.items()}
        chosen = {
            "image": named["image"] if named["image"] in pictures else next(iter(pictures), None),
            "text": named["text"],
            "label": named["label"] or (labels[0] if len(labels) == 1 else None),
            "id": named["id"],
        } | dict(given)
        image, text, label = chosen["image"], chosen["text"], chosen["label"]
        if image is not None and image not in pictures:
            raise ValueError(f"{where}: image: the column {image!r} holds {features[image]}; expected pictures (Image)")
        if text is not None and getattr(_inner(features[text]), "dtype", "") not in ("string", "large_string"):
            raise ValueError(f"{where}: text: the column {text!r} holds {features[text]}; expected texts, or lists of them")
        if image is None and text is None:
            raise ValueError(f"{where}: the columns are {', '.join(features)}; expected a picture or a text among them: image=COLUMN")
        own = tuple(
            name
            for name, feature in features.items()
            if name not in (*chosen.values(), *_TAKEN) and isinstance(_inner(feature), Value) and "binary" not in str(feature)
        )
        kind = features[label] if label is not None else None
        names = tuple(_inner(kind).names) if isinstance(_inner(kind), ClassLabel) else None
        return cls(image, text, label, chosen["id"], own, many=label is not None and _inner(kind) is not kind, classes=names)

    def with_classes(self, cells: Iterable[Any]) -> "Columns":
        """Labels that are numbers or names, numbered as everywhere else, by the cells that training has."""
        seen = {value for cell in cells for value in self.values(cell)}
        names = sort_classes(str(value) for value in seen)
        number = {name: index for index, name in enumerate(names)}
        return replace(self, classes=names or None, by_name={value: number[str(value)] for value in seen})

    def values(self, cell: Any) -> tuple[Any, ...]:
        """The labels in a cell, none if it is empty."""
        return tuple(cell or ()) if self.many else () if cell is None or cell == "" else (cell,)

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that rows have."""
        known = {"image": self.image, "labels" if self.many else "label": self.label, "text": self.text}
        return (*(key for key, name in known.items() if name is not None), *self.own)

    def cells(self, item: Mapping[str, Any], caption: int | None, where: str) -> Row:
        """A row without its picture; `caption` is which one, where the column holds several."""
        row: Row = {}
        if self.label is not None and item[self.label] is not None:
            labels = [self._number(value, where) for value in self.values(item[self.label])]
            if self.many:
                row["labels"] = tuple(sorted({label for label in labels if label >= 0}))
            elif labels and labels[0] >= 0:  # a ClassLabel of -1 is none: test sets have it
                row["label"] = labels[0]
        if self.text is not None:
            text = item[self.text]
            text = text if caption is None or isinstance(text, str) else (text or [""])[caption]
            if text and text.strip():
                row["text"] = text.strip()
        return row | {name: item[name] for name in self.own if item[name] is not None}

    def _number(self, value: Any, where: str) -> int:
        if self.by_name is None:
            return int(value)
        if value not in self.by_name:
            known = nearest(str(value), list(self.classes or ())) if self.classes else "none of them has a label"
            raise ValueError(f"{where}: the label {value!r} is for eval and no training row has it; {known}")
        return self.by_name[value]

    def picture(self, item: Mapping[str, Any], where: str) -> Row:
        """`image`, if the item has one: its file or the bytes of it."""
        held = item[self.image] if self.image is not None else None
        if held is None:
            return {}
        if held["bytes"] is not None:
            return {"image": decode_picture(held["bytes"], where)}
        try:
            return {"image": read_picture(held["path"])}
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def _inner(feature: Any) -> Any:
    """What a list is of, and anything else itself."""
    from datasets import LargeList, List

    return feature.feature if isinstance(feature, List | LargeList) else feature

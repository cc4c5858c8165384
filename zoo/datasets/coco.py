"""Captions in COCO's JSON, and in Karpathy's, which also says what is for training, validation and test.

COCO: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`, as captions_train2017.json. Where captions_val2017.json
lies beside it, that is eval, and else a fifth of the pictures. Karpathy: `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`, as
dataset_coco.json, dataset_flickr30k.json and dataset_flickr8k.json; its "restval" is for training, as is usual.

Chen et al., "Microsoft COCO Captions", arXiv 1504.00325; splits: Karpathy and Fei-Fei, arXiv 1412.2306.
"""

import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from .captions import captioned
from .data import Data

_EXPECTED = "expected COCO's captions (images, annotations with image_id and caption), or Karpathy's (images with filename and sentences)"


def read_coco(path: str | PathLike[str], split: str | None = None, *, broken: bool = False) -> Data:
    """Rows `image` and `text`, a row a caption.

    Pictures are looked for beside the file and one folder up: there, in images/, and in the folder that the file is about (train2017/,
    flickr30k-images/).

    Args:
        path: the .json file; the one for training where there are two.
        split: what eval is, in Karpathy's files: "val" (by default) or "test".
        broken: open it also where pictures are missing: whoever reads such a row meets a BrokenPicture.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of JSON, or pictures that are not there.
    """
    source = Path(os.path.abspath(path))
    content = _load(source)
    first = content["images"][0] if content["images"] else {}
    try:
        if "sentences" in first:
            return _karpathy(source, content, split, broken)
        captions = _coco(content)
        name = source.stem.rpartition("_")[2]
        other = source.with_name(source.name.replace("train", "val"))
        held: dict[str, list[str]] = {}
        if other != source and other.is_file():
            held = {f"{name.replace('train', 'val')}/{file}": texts for file, texts in _coco(_load(other)).items()}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{source}: {error!r}; {_EXPECTED}") from error
    if not held:
        return captioned(source, [name, "", "images", f"images/{name}"], captions, {}, split, broken=broken)
    both = {f"{name}/{file}": texts for file, texts in captions.items()}
    splits = {**dict.fromkeys(both, "train"), **dict.fromkeys(held, "val")}
    return captioned(source, ["", "images"], {**both, **held}, splits, split, broken=broken)


def _load(source: Path) -> Mapping[str, Any]:
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    try:
        content = json.loads(source.read_bytes())
    except ValueError as error:
        raise ValueError(f"{source}: not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f"{source}: {_EXPECTED}")
    return content


def _coco(content: Mapping[str, Any]) -> dict[str, list[str]]:
    file_of = {image["id"]: image["file_name"] for image in content["images"]}
    captions: dict[str, list[str]] = {file: [] for file in file_of.values()}
    for each in content["annotations"]:
        if text := each["caption"].strip():
            captions[file_of[each["image_id"]]].append(text)
    return captions


def _karpathy(source: Path, content: Mapping[str, Any], split: str | None, broken: bool) -> Data:
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for image in content["images"]:
        name = os.path.join(image.get("filepath", ""), image["filename"])
        captions[name] = [text for sentence in image["sentences"] if (text := sentence["raw"].strip())]
        splits[name] = "train" if image["split"] == "restval" else image["split"]
    about = str(content.get("dataset", "images"))
    return captioned(source, ["", "images", "Images", about, f"{about}-images", f"{about}_images"], captions, splits, split, broken=broken)

"""An exported folder: a trained network as a runtime reads it, with all that is needed to use it, and its reader.

    model = load_exported("out")
    model("photo.jpg")                                 # {"cat": 0.97, "dog": 0.03}, the likeliest first: of a classifier
    model.image(["a.jpg", "b.jpg"]), model.text("a dog")    # [2, D] and [D], of unit length: of a joint embedding

    config.json              as in a run directory, and under "runtime": whose files these are, what they read, size and sha256 of each
    model.onnx               of a classifier; the suffix says whose it is (runtimes/)
    image.onnx text.onnx     of a joint embedding: a file a tower, its head included
    tokenizer.text.json      of a text tower

A file of the `onnx` runtime holds classes and preprocessing as well, so that it can be read alone.
"""

import importlib.metadata
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from registry import nearest

from ..datasets import read_picture
from ..towers import Tokenizer
from ..train import Preprocess
from ..train.manifest import record
from .runtimes import RUNTIMES, Function

FORMAT = 1
_BATCH = 32  # pictures that a runtime is given at a time
Picture = str | PathLike[str] | Image.Image | np.ndarray


def zoo_version() -> str:
    try:
        return importlib.metadata.version("effnet-zoo")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return "of a checkout"


class RuntimeNetwork(nn.Module):
    """A file of a runtime in the place of a network, to be measured and used: training it is refused.

    Args:
        function: the open file.
        width: of what it gives.
        classifier: whether that is a number a class.
        instead: what to train instead, for the message.
        tokens: of a text tower: texts to its ids.
    """

    def __init__(
        self, function: Function, width: int, *, classifier: bool, instead: str, tokens: Callable[[list[str]], Tensor] | None = None
    ):
        super().__init__()
        self.function, self.instead = function, instead
        self.num_classes, self.num_features = width if classifier else 0, width
        if tokens is not None:
            self.prepare, self.reads = tokens, "text"
        self.training = False

    def train(self, mode: bool = True) -> "RuntimeNetwork":
        if mode:
            raise ValueError(f"an exported network is for use, not for training: train {self.instead} instead, and export it again")
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.function(x.detach().cpu().contiguous().numpy())).to(x.device)


@dataclass(frozen=True)
class PaddedIds:
    """Texts to the ids that an exported text tower reads: `[B, L]` int64, L always its longest."""

    tokenizer: Tokenizer
    length: int

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ids = self.tokenizer(texts, self.length)
        return nn.functional.pad(ids, (0, self.length - ids.shape[1]))


def is_exported(folder: Path) -> bool:
    """Whether a directory holds what `zoo export` wrote for a runtime."""
    try:
        return "runtime" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of an exported folder, whose other files are what was written.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no exported folder, a newer version wrote it, it was refused, or a file of it is missing or damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such directory")
    try:
        config = json.loads((folder / "config.json").read_text())
        about = config["runtime"]
        written, known, files = about["zoo"], int(about["format"]) <= FORMAT, about["files"]
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(f"{folder} is no exported folder: expected a config.json written by `zoo export --to onnx` and its like") from None
    if not known:
        raise ValueError(_newer(folder, written))
    if "refused" in about:
        raise ValueError(f"{folder}: this export was refused: {about['refused']}")
    for name, wanted in files.items():
        try:
            found = record((folder / name).read_bytes())
        except OSError:
            raise ValueError(f"{folder}: {name} is missing") from None
        if found["bytes"] != wanted["bytes"]:
            raise ValueError(f"{folder}: {name} is damaged: it has {found['bytes']:,} bytes, expected {wanted['bytes']:,}")
        if found["sha256"] != wanted["sha256"]:
            raise ValueError(f"{folder}: {name} is damaged: its sha256 is {found['sha256'][:8]}..., expected {wanted['sha256'][:8]}...")
    if about["name"] not in RUNTIMES:
        raise ValueError(f"{folder}: unknown runtime {about['name']!r}; {nearest(about['name'], list(RUNTIMES))}")
    return config


def _newer(path: Path, written: str) -> str:
    return f"{path} was exported by effnet-zoo {written}, newer than this one ({zoo_version()}): pip install -U effnet-zoo"


class Exported:
    """An exported folder or file, open. Call it with a picture or a list of them; a picture is a path, PIL's, or an array `[H, W, 3]`
    uint8, RGB, or `[H, W]`, grey.

    Args:
        path: where it is.
        functions: modality -> its open file.
        preprocess: modality -> pictures to tensors.
        tokens: modality -> texts to ids.
        classes: in the order of the outputs; None: embeddings.
        multi_label: each class is a question of its own.
    """

    def __init__(
        self,
        path: Path,
        functions: Mapping[str, Function],
        preprocess: Mapping[str, Preprocess],
        *,
        tokens: Mapping[str, PaddedIds] | None = None,
        classes: Sequence[str] | None = None,
        multi_label: bool = False,
    ):
        self.path, self.functions, self.preprocess, self.tokens = path, dict(functions), dict(preprocess), dict(tokens or {})
        self.classes, self.multi_label = None if classes is None else tuple(classes), multi_label
        self._transforms = {name: each.transform(training=False) for name, each in self.preprocess.items()}

    def __call__(self, images: Picture | Sequence[Picture]) -> Any:
        """Of a classifier {class: probability}, the likeliest first; of a joint embedding the embedding. A list of them for a list.

        Raises:
            BrokenPicture: a file can not be read.
            ValueError: an array of another shape or type.
        """
        if self.classes is None:
            return self.image(images)
        many = not _is_one(images)
        logits = np.atleast_2d(self.image(images))
        found = [named(row, self.classes, self.multi_label) for row in logits]
        return found if many else found[0]

    def image(self, images: Picture | Sequence[Picture], *, modality: str = "image") -> np.ndarray:
        """`[D]` of a picture, `[N, D]` of a list: the embedding, or the logits of a classifier. Raises as calling it does."""
        transform = self._transforms[self._known(modality, self._transforms, "pictures")]
        one = _is_one(images)
        pictures: Sequence[Any] = [images] if one else images  # type: ignore[assignment]
        parts = []
        for first in range(0, len(pictures), _BATCH):
            pixels = torch.stack([transform(as_picture(each)) for each in pictures[first : first + _BATCH]])
            parts.append(self.functions[modality](pixels.numpy()))
        if not parts:
            raise ValueError("no pictures: the list is empty")
        return parts[0][0] if one else np.concatenate(parts)

    def text(self, texts: str | Sequence[str], *, modality: str = "text") -> np.ndarray:
        """`[D]` of a text, `[N, D]` of a list.

        Raises:
            ValueError: there is no text tower in it.
        """
        ids = self.tokens[self._known(modality, self.tokens, "texts")]([texts] if isinstance(texts, str) else texts)
        found = np.concatenate([self.functions[modality](part.numpy()) for part in ids.split(_BATCH)])
        return found[0] if isinstance(texts, str) else found

    def _known(self, modality: str, known: Mapping[str, Any], what: str) -> str:
        if modality not in known:
            raise ValueError(f"{self.path} embeds {', '.join(self.functions)}; it reads no {what} called {modality!r}")
        return modality


def _is_one(images: Any) -> bool:
    return isinstance(images, str | PathLike | Image.Image | np.ndarray)


def as_picture(given: Any) -> Image.Image:
    """PIL's of a path, an array or PIL's.

    Raises:
        BrokenPicture: a file can not be read.
        ValueError: it is none of these.
    """
    if isinstance(given, Image.Image):
        return given
    if isinstance(given, str | PathLike):
        return read_picture(given)
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and (given.ndim == 2 or given.ndim == 3 and given.shape[2] == 3):
        return Image.fromarray(given)
    what = f"an array of {given.dtype} {list(given.shape)}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
    raise ValueError(f"expected a picture: a path, PIL's, or an array [H, W, 3] or [H, W] of uint8, got {what}")


def named(logits: np.ndarray, classes: Sequence[str], multi_label: bool) -> dict[str, float]:
    """{class: probability}, the likeliest first."""
    values = torch.from_numpy(np.asarray(logits, dtype=np.float64))
    probabilities = values.sigmoid() if multi_label else values.softmax(0)
    order = probabilities.argsort(descending=True, stable=True)
    return {classes[number]: float(probabilities[number]) for number in order.tolist()}


def load_exported(path: str | PathLike[str], *, threads: int | None = None, **options: Any) -> Exported:
    """Open what `zoo export` wrote for a runtime.

    Args:
        path: the folder, or a .onnx file out of one.
        threads: of the runtime; its own choice by default.
        options: more for the runtime, such as precision="bf16" for openvino.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ImportError: the runtime is not installed; the message says how to.
        ValueError: what is damaged, or a newer version wrote it.
    """
    path = Path(path)
    if path.suffix == RUNTIMES["onnx"].SUFFIX and not path.is_dir():
        return _load_file(path, threads, options)
    config = read_config(path)
    about, settings = config["runtime"], config.get("zoo", {})
    try:
        functions = {name: _opened(path, about, file, threads, options) for name, file in about["parts"].items()}
        tokens = {}
        for name, each in about["tokens"].items():
            tokens[name] = PaddedIds(Tokenizer.from_json((path / each["tokenizer"]).read_text()), each["max_length"])
        classes = config.get("label_names") if settings.get("task") == "classify" else None
        multi_label = bool(settings.get("multi_label"))
        return Exported(path, functions, preprocesses(about), tokens=tokens, classes=classes, multi_label=multi_label)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: config.json is damaged ({type(error).__name__}: {error})") from error


def preprocesses(about: Mapping[str, Any]) -> dict[str, Preprocess]:
    """modality -> pictures to tensors, from JSON."""
    found = {}
    for name, each in about["preprocess"].items():
        values: dict[str, Any] = {key: tuple(its) if isinstance(its, list) else its for key, its in each.items()}
        found[name] = Preprocess(**values)
    return found


def _opened(folder: Path, about: Mapping[str, Any], file: str, threads: int | None, options: Mapping[str, Any]) -> Function:
    runtime: Any = RUNTIMES[about["name"]]
    _check_options(about["name"], options)
    try:
        return runtime.open(folder / file, threads=threads, **{**about["options"], **options})
    except (ImportError, MemoryError, ValueError):
        raise
    except Exception as error:  # every runtime has its own kinds
        here = f"{runtime.PACKAGE} {importlib.metadata.version(runtime.PACKAGE)}"
        told = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder}: {here} does not open {file}, which {about['library']} wrote: {told}") from error


def _check_options(runtime: str, options: Mapping[str, Any]) -> None:
    own = [name for name in inspect.signature(RUNTIMES[runtime].open).parameters if name != "path"]
    if unknown := [name for name in options if name not in own]:
        raise ValueError(f"{runtime} has no option {unknown[0]!r}; it has {', '.join(own)}")


def _load_file(path: Path, threads: int | None, options: Mapping[str, Any]) -> Exported:
    """A .onnx file without its folder."""
    onnx: Any = RUNTIMES["onnx"]
    _check_options("onnx", options)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    onnx.library()
    try:
        text = onnx.about(path)
    except Exception as error:  # onnxruntime has a dozen kinds, all of them a bare Exception
        raise ValueError(f"{path} is damaged, or no ONNX file: {' '.join(str(error).split())[:300]}") from error
    if not text:
        raise ValueError(f"{path} does not say what it reads, nor its classes: it was not written by `zoo export --to onnx`")
    about = json.loads(text)
    if about["format"] > FORMAT:
        raise ValueError(_newer(path, about["zoo"]))
    if not about["preprocess"]:
        raise ValueError(f"{path} reads texts, and its vocabulary is in the folder that it was written into: give that")
    (name,) = about["preprocess"]
    return Exported(
        path, {name: onnx.open(path, threads=threads)}, preprocesses(about), classes=about["classes"], multi_label=about["multi_label"]
    )

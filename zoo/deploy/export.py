"""A trained task to an exported folder (exported.py), and the check that it says there what it says here.

The check runs the file, opened as its reader will, on real rows beside PyTorch. What differs is kept out of the way, with the difference.
"""

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.graft import hand_overs
from ..files import write_together, write_whole
from ..joint import JointEmbedding
from ..progress import tracked
from ..towers import Bag, ClipText, Transformer
from ..train import Align, Classify, Task
from ..train.manifest import record
from .exported import FORMAT, PaddedIds, is_exported, load_exported, zoo_version
from .runtimes import ANY_SIZE, BATCH, RUNTIMES, files_of

TOLERANCE = 1e-3  # of the largest number said; other kernels differ by 1e-6, of which CBAM with random weights makes 7e-4
_TEXTS = (Transformer, Bag, ClipText)  # towers of token ids alone

_README = """# {name}, for {runtime}

```python
import zoo

model = zoo.load_exported("THIS_FOLDER")
{use}
```

`{file}` reads {reads}; what it expects stands under "runtime" in config.json.
Written by `zoo export --to {to}` (effnet-zoo {version}).
"""


class Differs(ValueError):
    """An export says something else than PyTorch does."""


@dataclass(frozen=True)
class Part:
    """A network of a task that becomes a file of its own.

    Args:
        modality: what it reads.
        network: `[B, C, H, W]` float32 or `[B, L]` int64 -> logits or embeddings.
        example: two rows.
        prepare: raw values to a batch.
    """

    modality: str
    network: nn.Module
    example: Tensor
    prepare: Callable[[Sequence[Any]], Tensor]

    @property
    def reads_pictures(self) -> bool:
        return self.example.ndim == 4


class _Embedder(nn.Module):
    """One tower of a joint embedding with its head."""

    def __init__(self, joint: JointEmbedding, name: str):
        super().__init__()
        self.name, self.frozen = name, frozenset[str]()
        self.towers, self.heads = nn.ModuleDict({name: joint.towers[name]}), nn.ModuleDict({name: joint.heads[name]})

    def forward(self, x: Tensor) -> Tensor:
        alone: Any = self  # what the two methods ask for, of this modality only
        return JointEmbedding.project(alone, self.name, JointEmbedding.features(alone, self.name, x))


def parts(task: Task) -> tuple[list[Part], list[str]]:
    """What of a task becomes files, and what stays behind, a sentence each.

    Raises:
        ValueError: a hand-over from one gate to another is under way, or there is nothing that could be a file.
    """
    under_way = len(list(hand_overs(task)))
    if under_way:
        raise ValueError(
            f"{under_way} gates are being handed over, and the network is neither the old one nor the new one: finish the hand-over "
            "(zoo swap ... --finetune-epochs N, or zoo.finish_swap(model) from Python)"
        )
    random = torch.Generator().manual_seed(0)

    def of_pictures(name: str, network: nn.Module, preprocess: Any) -> Part:
        transform = preprocess.transform(training=False)
        example = torch.randn(2, *preprocess.input_size, generator=random)
        return Part(name, network, example, lambda pictures: torch.stack([transform(each) for each in pictures]))

    if isinstance(task, Classify):
        return [of_pictures("image", task.trainable_module, task.preprocess)], []
    if not isinstance(task, Align):
        raise ValueError(f"a {type(task).__name__} is neither a classifier nor a joint embedding")
    found, left = [], []
    for name in task.columns:
        tower: Any = task.joint.towers[name]
        if name in task.preprocess:
            found.append(of_pictures(name, _Embedder(task.joint, name), task.preprocess[name]))
        elif isinstance(tower, _TEXTS):
            ids = PaddedIds(tower.tokenizer, tower.max_length)
            found.append(Part(name, _Embedder(task.joint, name), ids(["one", "and another"]), ids))
        else:
            left.append(f"left out: {name}; a {type(tower).__name__} does not read what every runtime has, pictures or token ids")
    if not found:
        raise ValueError(f"this run embeds {', '.join(task.columns)}, and none of its towers reads pictures or token ids")
    return found, left


def at_size(task: Task, img_size: int) -> None:
    """From now on the task reads its pictures at this size.

    Raises:
        ValueError: there are none, or too small a size.
    """
    if img_size < 8:
        raise ValueError(f"img_size: expected at least 8 pixels, got {img_size}")
    task.of_pictures()  # raises where there are none

    def resized(preprocess: Any) -> Any:
        return replace(preprocess, input_size=(preprocess.input_size[0], img_size, img_size))

    if isinstance(task, Classify):
        task.preprocess = resized(task.preprocess)
    elif isinstance(task, Align):
        task.preprocess = {name: resized(each) for name, each in task.preprocess.items()}


def write_exported(
    task: Task,
    config: Mapping[str, Any],
    runtime: str,
    out: Path,
    *,
    run: str,
    any_size: bool = False,
    write: Callable[[Part, Path, str], None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write an exported folder; `check_exported` comes next.

    Args:
        task: trained.
        config: the config.json of its run.
        runtime: whose files, of RUNTIMES.
        out: a folder; files of these names are replaced.
        run: which run it is, for whoever wants to train on.
        any_size: pictures may come in any size, where the runtime allows it.
        write: writes a part into a path, which has the runtime's suffix, and a text into the file where it has room; the runtime as it is
            by default. A quantizer gives its own.
        options: for opening the files, such as {"precision": "bf16"}.

    Returns:
        What stays behind, a sentence each.

    Raises:
        ImportError: the runtime is not installed.
        ValueError: the task or the network can not be exported, and why.
    """
    its: Any = RUNTIMES[runtime]
    found, notes = parts(task)
    classify = isinstance(task, Classify)
    preprocess: Any = {"image": task.preprocess} if isinstance(task, Classify) else getattr(task, "preprocess", {})
    pictures = {name: json.loads(json.dumps(asdict(each))) for name, each in preprocess.items()}
    out.mkdir(parents=True, exist_ok=True)

    def write_plainly(part: Part, path: Path, about: str) -> None:
        names = ("image" if part.reads_pictures else "ids", "logits" if classify else "embeddings")
        dynamic = ANY_SIZE if any_size and part.reads_pictures else BATCH
        its.write(part.network, part.example, path, dynamic=dynamic, names=names, about=about)

    stems = {part.modality: "model" if classify else part.modality for part in found}
    files: dict[str, Path] = {}
    tokens: dict[str, Any] = {}
    for part in tracked(found, len(found), f"write for {runtime}"):
        path = out / f"{stems[part.modality]}{its.SUFFIX}"
        about = {
            "format": FORMAT,
            "zoo": zoo_version(),
            "classes": list(task.classes) if isinstance(task, Classify) else None,
            "multi_label": bool(getattr(task, "multi_label", False)),
            "preprocess": {name: each for name, each in pictures.items() if name == part.modality},
        }
        (write or write_plainly)(part, path, json.dumps(about))
        files |= {each.name: each for each in files_of(its, path)}
        if isinstance(part.prepare, PaddedIds):
            vocabulary = out / f"tokenizer.{part.modality}.json"
            write_whole(vocabulary, part.prepare.tokenizer.to_json().encode())
            files[vocabulary.name] = vocabulary
            tokens[part.modality] = {"tokenizer": vocabulary.name, "max_length": part.prepare.length}
    about_files: dict[str, Any] = {
        "format": FORMAT,
        "name": runtime,
        "options": dict(options or {}),
        "zoo": zoo_version(),
        "library": f"{its.PACKAGE} {importlib.metadata.version(its.PACKAGE)}",
        "run": run,
        "parts": {name: f"{stem}{its.SUFFIX}" for name, stem in stems.items()},
        "preprocess": {name: pictures[name] for name in stems if name in pictures},
        "tokens": tokens,
        "any_size": any_size,
        "files": {name: record(path.read_bytes()) for name, path in files.items()},
        "checked": None,
    }
    if isinstance(task, Align):
        about_files |= {"embed_dim": task.joint.embed_dim, "scales": _scales(task.joint)}
    whole: dict[str, Any] = {**config, "runtime": about_files}
    if "image" in pictures and "pretrained_cfg" in whole:
        whole["pretrained_cfg"] = {**whole["pretrained_cfg"], "input_size": pictures["image"]["input_size"]}
    main = found[0]
    readme = _README.format(
        name=config.get("zoo", {}).get("model") or config.get("architecture") or " and ".join(stems),
        runtime=f"{runtime} ({about_files['library']})",
        use='model("photo.jpg")  # {class: probability}' if classify else _use(found),
        file=about_files["parts"][main.modality],
        reads=" x ".join(("any batch", *map(str, main.example.shape[1:]))) + f" {str(main.example.dtype).removeprefix('torch.')}",
        to=runtime.replace("_", "-"),
        version=zoo_version(),
    )
    write_together(out, {"config.json": _json(whole), "README.md": readme.encode()})
    return notes


def _use(found: Sequence[Part]) -> str:
    lines = []
    for part in found:
        verb, value = ("image", '"photo.jpg"') if part.reads_pictures else ("text", '"what it shows"')
        own = "" if part.modality == verb else f', modality="{part.modality}"'
        lines.append(f"model.{verb}({value}{own})  # [D], of unit length")
    return "\n".join(lines)


def _scales(joint: JointEmbedding) -> dict[str, float]:
    """What cosines of each pair are multiplied with before a softmax."""
    if joint.logit_scale is None:
        return {}
    return {"-".join(pair): joint.logit_scale[number].exp().item() for number, pair in enumerate(joint.pairs)}


def _json(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=2) + "\n").encode()


@torch.no_grad()
def check_exported(
    task: Task, out: Path, values: Mapping[str, Sequence[Any]], *, tolerance: float = TOLERANCE, rows_at_a_time: int = 16
) -> dict[str, Any]:
    """Run the folder's files beside PyTorch, and write the largest difference into its config.json.

    Args:
        task: what was exported.
        out: the folder.
        values: modality -> pictures or texts to check it on; what is not there is not checked.
        tolerance: the largest difference that may be, in shares of the largest number that PyTorch says.

    Returns:
        {"rows", "difference" (modality -> number), "tolerance"}.

    Raises:
        Differs: a difference is larger; config.json says so, and the folder does not load any more.
    """
    opened = load_exported(out)
    differences: dict[str, float] = {}
    for part in parts(task)[0]:
        given = values.get(part.modality, ())
        device = next(part.network.parameters()).device
        part.network.eval()
        apart = largest = torch.zeros(())
        for first in tracked(range(0, len(given), rows_at_a_time), -(-len(given) // rows_at_a_time), f"check {part.modality}"):
            some = given[first : first + rows_at_a_time]
            ours = part.network(part.prepare(some).to(device)).float().cpu()
            theirs = opened.image(some, modality=part.modality) if part.reads_pictures else opened.text(some, modality=part.modality)
            gap = (torch.from_numpy(theirs).float() - ours).abs().max()
            apart = torch.stack([apart, gap]).max()  # NaN stays
            largest = torch.maximum(largest, ours.abs().max())
        if given:
            differences[part.modality] = (apart / largest.clamp(min=1e-30)).item()
    checked = {"rows": max(map(len, values.values())), "difference": differences, "tolerance": tolerance}
    config = json.loads((out / "config.json").read_text())
    config["runtime"]["checked"] = checked
    wrong = {name: each for name, each in differences.items() if not each <= tolerance}
    if wrong:
        told = ", ".join(f"{name} by {each:.1e}" for name, each in wrong.items())
        why = f"its outputs differ from PyTorch's ({told} of the largest, {tolerance:g} may be) on {checked['rows']} rows"
        config["runtime"]["refused"] = why
        write_whole(out / "config.json", _json(config))
        raise Differs(why)
    write_whole(out / "config.json", _json(config))
    return checked


def set_aside(folder: Path, out: Path) -> Path:
    """Move the files of a refused export beside the folder they were meant for; returns where they are.

    Raises:
        ValueError: something else is there.
    """
    aside = out.with_name(f"{out.name}-refused")
    if aside.exists() and not is_exported(aside):
        raise ValueError(f"out: {aside}, where a refused export would be kept, holds something else; choose another folder")
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    for path in folder.iterdir():
        os.replace(path, aside / path.name)
    return aside

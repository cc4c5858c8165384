"""A run for another library, which builds the network itself: what is written, how it is checked there, and what is said of it."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..build import Run
from ..datasets import Split
from ..deploy import compare_open_clip, compare_timm, export_open_clip, export_timm, text_modality
from ..train import Align, Classify

FILES = {
    "timm": ("config.json", "model.safetensors", "README.md"),
    "open_clip": ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"),
}
_BROKEN = 1e-4  # of embeddings of unit length; other kernels differ by 1e-6
_PACKAGE = {"open_clip": "open_clip_torch", "timm": "timm"}


def first_rows(split: Split, columns: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    """The first rows that have all columns."""
    found = []
    for index in range(len(split)):
        row = split[index]
        if all(column in row for column in columns):
            found.append(row)
        if len(found) == count:
            break
    if not found:
        raise ValueError(f"no row with {' and '.join(columns)} to check it on")
    return found


def write(run: Run, to: str, out: Path) -> list[str]:
    """Into a folder; what is not the same there."""
    task: Any = run.task
    if to == "timm":
        task.of_pictures()  # raises where there are none
        classifier = isinstance(task, Classify)
        network = task.trainable_module if classifier else task.joint.towers["image"]
        export_timm(network, task.of_pictures(), out, classes=task.classes if classifier else None)
        return []
    if not isinstance(task, Align):
        pairs = "zoo train image=effnet_cbam_b0 text=clip_text"
        raise ValueError(f"{run.path} is a classifier, and open_clip joins pictures and texts: {pairs} ..., or --to timm")
    return export_open_clip(task.joint, task.of_pictures(), out, drop_path=run.settings.get("drop_path"))


def check(run: Run, to: str, folder: Path, split: Split, count: int) -> dict[str, Any]:
    """The largest differences, on the first rows of a split."""
    task: Any = run.task
    if to == "timm":
        pictures = [row["image"] for row in first_rows(split, ("image",), count)]
        network = task.trainable_module if isinstance(task, Classify) else task.joint.towers["image"]
        found = {"image": compare_timm(network, task.of_pictures(), folder, pictures)}
        worst = found["image"]
    else:
        text = text_modality(task.joint)
        rows = first_rows(split, ("image", text), count)
        pictures, texts = [row["image"] for row in rows], [row[text] for row in rows]
        found = asdict(compare_open_clip(task.joint, task.of_pictures(), folder, pictures, texts))
        worst = max(found["same_pixels"], found["same_ids"])
    if not worst < _BROKEN:
        raise RuntimeError(f"{folder}: {to} loads the export and says something else: {found}")
    return {"rows": len(pictures), **found}


def told(to: str, found: dict[str, Any]) -> str:
    """What the check found, in a line."""
    line = f"checked with {to} {version(_PACKAGE[to])} on {found['rows']} rows, largest difference: pictures {found['image']:.1e}"
    if to == "timm":
        return line
    line += f", texts {found['text']:.1e}"
    if found["pixels"] > 1e-6:
        line += f"; open_clip prepares pictures otherwise: of the same pixels {found['same_pixels']:.1e}"
    if found["texts"]:
        line += f"; {found['texts']} texts are other tokens there: of the same tokens {found['same_ids']:.1e}"
    return line

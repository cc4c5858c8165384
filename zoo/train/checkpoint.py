"""What a run needs to go on from: weights, their average, the optimizer and one integer, in a directory that is whole or not there.

    checkpoints/
      step-00000060/  step-00000120/    the last ones, complete
        model.safetensors, ema.safetensors, optimizer.pt (read with weights_only), state.json
        manifest.json                   sha256 and size of each, and of itself
      latest                            the name of the newest, for people and scripts
      damaged-step-00000180/            refused by `newest`; kept until the run has come past that step

A checkpoint is written under a temporary name, flushed, and renamed; only then are older ones deleted. Each file is read once: the bytes
that are checked are the bytes that are understood, and nothing in them is ever run.
"""

import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..files import CannotWrite, flush, write_new, write_whole
from . import manifest
from .manifest import Damaged as Damaged

_NAME = re.compile(r"step-(\d+)(\.old)?")
_LEFT = (".writing-*", ".removing-*")  # behind by a kill

Contents = tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any], dict[str, Any]]
"""(tensors, optimizer, state), as `write` takes them."""


@dataclass
class Saved:
    """What `newest` found.

    Args:
        path: the checkpoint.
        contents: (tensors, optimizer, state) of it.
        refused: newer ones that are damaged, and why.
    """

    path: Path
    contents: Contents
    refused: dict[Path, Damaged] = field(default_factory=dict)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first. `step-N.old` is one that is being replaced by another of the same step."""
    named = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*") if path.is_dir()]
    return [path for *_, path in sorted((int(name[1]), name[2] is None, path) for name, path in named if name)]


def remove(folder: Path) -> None:
    """Remove every checkpoint, whole, damaged or half written, and nothing else."""
    (folder / "latest").unlink(missing_ok=True)
    for path in [*checkpoints(folder), *folder.glob("damaged-step-*")]:
        _remove(path)
    _tidy(folder)
    with suppress(OSError):  # it is not there, or holds something else
        folder.rmdir()


def _remove(path: Path) -> None:
    """Under another name first, so that half of one is not taken for a checkpoint. What cannot be deleted goes at the next write."""
    going = path.with_name(f".removing-{path.name}")
    shutil.rmtree(going, ignore_errors=True)
    os.replace(path, going)
    shutil.rmtree(going, ignore_errors=True)


def _tidy(folder: Path) -> None:
    for path in [path for pattern in _LEFT for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    for old in folder.glob("step-*.old"):
        if old.with_suffix("").exists():
            _remove(old)
        else:
            os.replace(old, old.with_suffix(""))


def write(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    optimizer: dict[str, Any],
    state: dict[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write the checkpoint of a step. Whatever stops it, and whenever: one that was complete before, or the new one, is there.

    Args:
        folder: where the checkpoints of the run are.
        step: steps taken so far.
        tensors: {"model": state dict, "ema": state dict}.
        optimizer: the optimizer's state dict.
        state: everything else, as JSON.
        keep: how many to keep; older ones are deleted after.

    Raises:
        CannotWrite: the disk is full, or there is no permission.
    """
    final, work, old = (folder / name for name in (_named(step), f".writing-{_named(step)}", f"{_named(step)}.old"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        work.mkdir()
        _fill(work, step, _serialized(step, tensors, optimizer, state), state)
        if final.exists():
            os.replace(final, old)
        os.replace(work, final)
        flush(folder)
        write_whole(folder / "latest", f"{final.name}\n".encode())
        for path in _superseded(folder, step, keep):
            _remove(path)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise CannotWrite(final, error, _size((tensors, optimizer))) from error
    return final


def _named(step: int) -> str:
    return f"step-{step:08d}"


def _serialized(step: int, tensors: Mapping, optimizer: dict, state: dict) -> Iterator[tuple[str, bytes]]:
    """(file, content), one in memory at a time."""
    for name, state_dict in tensors.items():
        whole = {key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()}
        yield f"{name}.safetensors", safetensors.torch.save(whole)
    buffer = io.BytesIO()
    torch.save(optimizer, buffer)
    yield "optimizer.pt", buffer.getvalue()
    yield "state.json", json.dumps({"step": step, "tensors": list(tensors), "manifest": True, **state}, indent=2).encode()


def _fill(work: Path, step: int, contents: Iterator[tuple[str, bytes]], state: dict[str, Any]) -> None:
    """The hashes are of what was meant to be written, not of what the disk made of it; they are taken while it writes."""
    with ThreadPoolExecutor(1) as beside:
        taken = {}
        for name, content in contents:
            taken[name] = beside.submit(manifest.record, content)
            write_new(work / name, content)
        files = {name: each.result() for name, each in taken.items()}
    write_new(work / manifest.NAME, manifest.manifest(files, step=step, seed=state.get("settings", {}).get("seed")))
    flush(work)


def _size(value: Any) -> int:
    """Bytes of all tensors in it."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else 0


def _superseded(folder: Path, step: int, keep: int) -> list[Path]:
    """What may go, now that there is a checkpoint of this step."""
    found = checkpoints(folder)
    replaced = [path for path in found if path.suffix == ".old"]
    passed = [path for path in folder.glob("damaged-step-*") if (name := _NAME.search(path.name)) and int(name[1]) <= step]
    return [*replaced, *[path for path in found if path not in replaced][:-keep], *passed]


def read(path: Path) -> Contents:
    """A checkpoint as it was given to `write`. One that was written before there were manifests is read as it is.

    Raises:
        Damaged: a file of it is missing, one too many, or not what was written.
    """
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    others: dict[str, Any] = {}
    try:
        for name, content in manifest.files(path):
            if name.endswith(".safetensors"):
                tensors[name.removesuffix(".safetensors")] = _understood(name, safetensors.torch.load, content)
            elif name == "optimizer.pt":
                others[name] = _understood(name, torch.load, io.BytesIO(content), map_location="cpu", weights_only=True)
            elif name == "state.json":
                others[name] = _understood(name, _state, content)
        state = others.get("state.json", {"tensors": ()})
        needed = ["state.json", "optimizer.pt", *(f"{name}.safetensors" for name in state.pop("tensors"))]
        if state.pop("manifest", False):
            needed.append(manifest.NAME)
        for name in needed:
            if not (path / name).is_file():
                raise Damaged(f"{name} is missing")
    except Damaged as error:
        raise Damaged(f"{path.name}: {error}") from error
    return tensors, others["optimizer.pt"], state


def _state(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict) or not {"step", "tensors"} <= found.keys():
        raise ValueError("it does not say step and tensors")
    return found


def _understood(name: str, reader: Callable[..., Any], content: Any, **how: Any) -> Any:
    try:
        return reader(content, **how)
    except MemoryError:
        raise
    except Exception as error:  # whatever a reader makes of bytes that it was not made for
        why = str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
        raise Damaged(f"{name} cannot be understood ({why})") from error


def newest(folder: Path) -> Saved | None:
    """The newest checkpoint that is as it was written; None where there are none at all. Changes nothing.

    Raises:
        ValueError: there are some, but each is damaged.
    """
    refused: dict[Path, Damaged] = {}
    for path in reversed(checkpoints(folder)):
        try:
            return Saved(path, read(path), refused)
        except Damaged as error:
            refused[path] = error
    if refused:
        raise ValueError(
            f"no checkpoint in {folder} is whole: {'; '.join(map(str, refused.values()))}; --overwrite starts from the beginning"
        )
    return None


def set_aside(saved: Saved) -> list[str]:
    """Put the damaged ones that `newest` came across out of the way, as `damaged-step-N`; returns what is to be told of each."""
    told = []
    if saved.refused:
        write_whole(saved.path.with_name("latest"), f"{saved.path.name}\n".encode())
    for path, why in saved.refused.items():
        number = next(n for n in itertools.count(1) if not _aside(path, n).exists())
        os.replace(path, _aside(path, number))
        told.append(f"{why}; going on from {saved.path.name}, and the damaged one is kept as {_aside(path, number)}")
    return told


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"damaged-{path.name}" + (f".{number}" if number > 1 else ""))

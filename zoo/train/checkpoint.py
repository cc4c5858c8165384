"""What a run needs to go on: weights, their average, the optimizer and one integer, in a directory that is whole or not there.

`step-00000120/` holds model.safetensors, ema.safetensors, optimizer.pt (read with weights_only) and state.json. It is written under a
temporary name, flushed, and renamed; only then is the one before last deleted.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

_KEEP = 2


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal() and (path / "state.json").is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def remove(folder: Path) -> None:
    """Remove every checkpoint, whole or half written, and nothing else."""
    for path in [*checkpoints(folder), *folder.glob(".writing-*")]:
        shutil.rmtree(path)
    with suppress(OSError):  # it is not there, or holds something else
        folder.rmdir()


def write(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], optimizer: dict[str, Any], state: dict[str, Any]
) -> Path:
    """Write the checkpoint of a step.

    Args:
        folder: where the checkpoints of the run are.
        step: steps taken so far.
        tensors: {"model": state dict, "ema": state dict}.
        optimizer: the optimizer's state dict.
        state: everything else, as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, work = folder / f"step-{step:08d}", folder / f".writing-{step:08d}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for name, state_dict in tensors.items():
        whole = {key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()}
        safetensors.torch.save_file(whole, work / f"{name}.safetensors")
    torch.save(optimizer, work / "optimizer.pt")
    (work / "state.json").write_text(json.dumps({"step": step, "tensors": list(tensors), **state}, indent=2))
    for file in work.iterdir():
        _flush(file)
    _flush(work)
    if final.exists():
        shutil.rmtree(final)
    os.replace(work, final)
    _flush(folder)
    for old in checkpoints(folder)[:-_KEEP]:
        shutil.rmtree(old)
    return final


def read(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any], dict[str, Any]]:
    """(tensors, optimizer, state) of a checkpoint, as they were given to `write`.

    Raises:
        ValueError: a file of it is missing or damaged.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        tensors = {name: safetensors.torch.load_file(path / f"{name}.safetensors") for name in state.pop("tensors")}
        return tensors, torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True), state
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        why = str(error).partition(". ")[0] or type(error).__name__
        raise ValueError(f"{path} is damaged ({why}); remove it to go on from the checkpoint before it") from error

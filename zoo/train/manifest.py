"""`manifest.json`: size and sha256 of each file of a directory, and of itself.

A flipped byte in a file of weights loads without complaint, and trains on. Here each file is read once, so that the bytes that were checked
are the bytes that are used, whoever writes beside it.
"""

import errno
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch

NAME = "manifest.json"


class Damaged(ValueError):
    """A directory is not what was written; says which file of it, and why."""


def record(content: bytes) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def manifest(files: Mapping[str, Mapping[str, Any]], **about: Any) -> bytes:
    """The manifest of files of which `record` was taken, with whatever else is to be known of them, as JSON."""
    whole = {**about, "versions": _versions(), "files": files}
    return json.dumps({**whole, "sha256": _digest(whole)}, indent=2).encode()


def _versions() -> dict[str, str]:
    found = {"torch": str(torch.__version__), "timm": timm.__version__}
    with suppress(importlib.metadata.PackageNotFoundError):  # a checkout that is not installed
        found["effnet-zoo"] = importlib.metadata.version("effnet-zoo")
    return found


def _digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: manifest[key] for key in sorted(manifest) if key != "sha256"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of all files of a directory but the manifest, each as the manifest has it; without a manifest, as they are.

    Hidden files, such as a desktop leaves, do not count.

    Raises:
        Damaged: a file is missing, one too many, or not what was written.
    """
    there = {each.name for each in path.iterdir() if not each.name.startswith(".")}
    recorded = _recorded(path) if NAME in there else None
    if recorded is not None:
        for what, names in (("is missing", recorded.keys() - there), ("does not belong there", there - recorded.keys() - {NAME})):
            if names:
                raise Damaged(f"{', '.join(sorted(names))} {what}")
    for name in sorted(there - {NAME}):
        content = _content(path, name)
        if recorded is not None and (found := record(content)) != recorded[name]:
            if len(content) != recorded[name]["bytes"]:
                raise Damaged(f"{name} has {len(content):,} bytes, expected {recorded[name]['bytes']:,}")
            raise Damaged(f"{name} is not what was written (sha256 {found['sha256'][:8]}, expected {recorded[name]['sha256'][:8]})")
        yield name, content


def _recorded(path: Path) -> dict[str, dict[str, Any]]:
    try:
        whole = json.loads(_content(path, NAME))
        if whole["sha256"] == _digest(whole):
            return dict(whole["files"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Damaged(f"{NAME} cannot be understood ({str(error) or type(error).__name__})") from error
    raise Damaged(f"{NAME} is not what was written (sha256)")


def _content(path: Path, name: str) -> bytes:
    if not (path / name).is_file():
        raise Damaged(f"{name} is not a file")
    try:
        return (path / name).read_bytes()
    except OSError as error:
        if error.errno != errno.EIO:  # no permission, too many open files: not a fault of what is there
            raise
        raise Damaged(f"{name} cannot be read ({error.strerror})") from error

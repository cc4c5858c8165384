"""A file is there whole, as it was or as it shall be: written under a temporary name, flushed to the disk, renamed.

So neither a kill nor a full disk damages what was there before. A kill leaves files named `.writing-*`, which nobody reads.
"""

import math
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


class CannotWrite(OSError):
    """A file could not be written, and what it was to replace is as it was.

    Args:
        path: the file.
        error: what happened.
        needed: bytes that were to be written.
    """

    def __init__(self, path: Path, error: OSError, needed: int):
        why = os.strerror(error.errno) if error.errno else str(error)
        try:
            free = f", {_megabytes(shutil.disk_usage(path.parent).free)} are free"
        except OSError:
            free = ""
        super().__init__(f"{path} cannot be written: {why} ({_megabytes(needed)} are needed{free})")
        self.errno = error.errno


def _megabytes(count: int) -> str:
    return f"{math.ceil(count / 1e5) / 10:,} MB"


def flush(path: Path) -> None:
    """Have the disk keep a directory's names: after a power failure they are there."""
    if os.name == "nt":
        return  # Windows opens no directories
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that nobody looks at yet, and have the disk keep it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or replace one, so that it is never there in part.

    Raises:
        CannotWrite: what was in the way, and how much room was needed.
    """
    write_together(path.parent, {path.name: content})


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files, or replace them: none before there is room for all.

    Raises:
        CannotWrite: what was in the way, and how much room was needed.
    """
    token = secrets.token_hex(4)  # two writers do not write into one file
    working = {name: folder / f".writing-{name}.{token}" for name in contents}
    try:
        for name, work in working.items():
            write_new(work, contents[name])
        for name, work in working.items():
            os.replace(work, folder / name)
        flush(folder)
    except OSError as error:
        for work in working.values():
            with suppress(OSError):
                work.unlink(missing_ok=True)
        raise CannotWrite(folder / ", ".join(contents), error, sum(map(len, contents.values()))) from error

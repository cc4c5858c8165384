"""One training a run directory: a second one is refused while the first lives, and never after.

The lock is the system's (`fcntl.lockf` on `.lock`) and goes with the process that took it, however it ends; workers that outlive it by a
moment do not hold it. Where there is no such lock (Windows, some network disks) the training goes on without.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_HELD: set[Path] = set()  # by this process: the system would give it the same lock twice


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Nobody else trains into `out`, which is made if need be, and removed again if nothing was put into it.

    Raises:
        ValueError: another training writes into it.
    """
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    path = out.resolve() / ".lock"
    if path in _HELD:
        raise ValueError(f"out: another training of this very process writes into {out}; wait for it, or choose another directory")
    handle = _take(path, out) if fcntl else None
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.remove(path)
        with suppress(OSError):
            path.unlink()  # while it is held: who opens it now finds out in `_take`
        if handle is not None:
            os.close(handle)
        with suppress(OSError):  # not empty
            for folder in missing:
                folder.rmdir()


def _take(path: Path, out: Path) -> int | None:
    """A handle that holds the lock; None where there are no locks."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return handle
            os.close(handle)  # its holder has just removed it
        except OSError as error:
            who = os.read(handle, 200).decode(errors="replace") or "another process"
            os.close(handle)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return None
            raise ValueError(f"out: {who} is training into {out}; wait for it, or choose another directory") from None

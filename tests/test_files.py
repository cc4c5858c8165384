"""A file is replaced whole or not at all, several of them together."""

import os
import stat
from contextlib import contextmanager

import pytest

from zoo import files


@contextmanager
def at_most_1000_bytes():
    """A limit on the size of a file, which the system meets in the middle of a write; as a full disk, without being root.

    It holds for what pytest writes too, so that it is gone before a test is.
    """
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_file_is_replaced(tmp_path):
    for content in (b"one", b"two" * 1000):
        files.write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask  # colleagues may read it, if they may read others


def test_where_there_is_no_room_nothing_changes(tmp_path):
    files.write_together(tmp_path, {"small": b"old", "large": b"old"})
    told = r"small, large cannot be written: File too large \(0.1 MB are needed, [\d,.]+ MB are free"
    with at_most_1000_bytes(), pytest.raises(files.CannotWrite, match=told):
        files.write_together(tmp_path, {"small": b"new", "large": b"new" * 1000})
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == {"small": b"old", "large": b"old"}


def test_writing_over_it_would_lose_both(tmp_path):
    """The control."""
    (tmp_path / "large").write_bytes(b"old")
    with at_most_1000_bytes(), pytest.raises(OSError, match="too large"):
        (tmp_path / "large").write_bytes(b"new" * 1000)
    assert (tmp_path / "large").read_bytes() == (b"new" * 1000)[:1000]

"""Killed, out of room or out of power at every moment of a write: a complete checkpoint is there, and the next write succeeds.

What a kill leaves is what the disk holds at that moment: so one write is made, and the disk copied before each thing that changes it. That
this is what a kill leaves is tested too.
"""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import torch

from zoo import files
from zoo.train import checkpoint

CHANGES = ("mkdir", "replace", "rename", "unlink", "rmdir", "fsync")  # of `os`; what pathlib and shutil call too
TAKE_ROOM = {"open", "write", "mkdir", "replace", "fsync"}


@pytest.fixture
def quick():
    """A directory in memory where there is one: of these tests none is about the speed of the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        yield Path(folder)


def arguments(step, value):
    return step, {"model": {"w": torch.full((50,), float(value))}}, {"lr": value}, {"value": value}


def save(folder, step, value):
    return checkpoint.write(folder, *arguments(step, value))


@contextmanager
def at_each_moment(happens):
    """Call `happens(name)` before each thing that changes the disk; a file is written in two halves."""
    real = {name: getattr(os, name) for name in CHANGES}

    def told(name):
        with pytest.MonkeyPatch.context() as patch:
            for each, function in real.items():
                patch.setattr(os, each, function)
            happens(name)

    def reporting(name):
        def call(*args, **kwargs):
            told(name)
            return real[name](*args, **kwargs)

        return call

    class Halves:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            told("write")
            self.file.write(content[len(content) // 2 :])

    def opened(path, mode="r"):
        told("open")
        return Halves(open(path, mode))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", opened, raising=False)
        for name in CHANGES:
            patch.setattr(os, name, reporting(name))
        yield


def disks(place, ready, act):
    """What the disk holds before each thing that changes it, and at the end: copies of the folder that `act(folder)` writes into."""
    folder = place / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for step, value in ready:
        save(folder, step, value)
    found = []

    def copy(name="end"):
        found.append(shutil.copytree(folder, place / f"{len(found)} {name}"))

    with at_each_moment(copy):
        act(folder)
    copy()
    return found


def value_of(path):
    tensors, optimizer, state = checkpoint.read(path)
    assert tensors["model"]["w"].tolist() == [state["value"]] * 50 and optimizer == {"lr": state["value"]}
    return state["value"]


def is_tidy(folder):
    left = {path.name for path in folder.iterdir()} - {"latest"}
    return left == {path.name for path in checkpoint.checkpoints(folder)} and not any(name.endswith(".old") for name in left)


def survives(folder, allowed, step):
    """Every name of a checkpoint stands for a whole one, the newest is one of those, and the next write succeeds."""
    whole = [value_of(path) for path in checkpoint.checkpoints(folder)]
    assert whole[-1:] in [[value] for value in allowed] or (None in allowed and not whole), f"{folder.name}: {whole} is left"
    save(folder, step, 9.0)
    assert value_of(checkpoint.checkpoints(folder)[-1]) == 9.0 and is_tidy(folder)
    assert (folder / "latest").read_text().strip() == f"step-{step:08d}"


# (step, value) before; the one that is written
CASES = {
    "the first": ([], (1, 1.0)),
    "the second": ([(1, 1.0)], (2, 2.0)),
    "the third, with rotation": ([(1, 1.0), (2, 2.0)], (3, 3.0)),
    "the only one again": ([(1, 1.0)], (1, 1.5)),
    "the last one again": ([(1, 1.0), (2, 2.0)], (2, 2.5)),
}


def kill_at_every_moment(place, ready, written, write=save):
    """Returns how many moments there were."""
    found = disks(place, ready, lambda folder: write(folder, *written))
    before = ready[-1][1] if ready else None
    for folder in found:
        survives(folder, {before, written[1]}, written[0] + 1)
    return len(found)


@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_moment(quick, case):
    assert kill_at_every_moment(quick, *CASES[case]) > 20


def test_killed_again_while_the_same_step_is_written_again(quick):
    """What the first kill leaves (half a directory, one set aside, one half deleted) is as safe from a second as from the first."""
    ready, written = CASES["the only one again"]
    left = {}
    for folder in disks(quick, ready, lambda folder: save(folder, *written)):
        left.setdefault(tuple(sorted(path.name for path in folder.iterdir())), folder)
    assert any("step-00000001.old" in names for names in left) and len(left) >= 5
    for number, state in enumerate(left.values()):
        shutil.copytree(state, quick / f"again {number}" / "checkpoints")
        for folder in disks(quick / f"again {number}", [], lambda folder: save(folder, 1, 1.75)):
            survives(folder, {1.0, 1.5, 1.75}, 2)


def fill(folder, step, value):
    step, tensors, optimizer, state = arguments(step, value)
    folder.mkdir()
    checkpoint._fill(folder, step, checkpoint._serialized(step, tensors, optimizer, state), state)


def delete_then_rename(folder, step, value):
    fill(folder / ".writing-x", step, value)
    shutil.rmtree(folder / f"step-{step:08d}")
    os.replace(folder / ".writing-x", folder / f"step-{step:08d}")


def make_room_first(folder, step, value):
    for old in checkpoint.checkpoints(folder):
        shutil.rmtree(old)
    save(folder, step, value)


def write_in_place(folder, step, value):
    fill(folder / f"step-{step:08d}", step, value)


@pytest.mark.parametrize(
    "naive, case",
    [(delete_then_rename, "the only one again"), (make_room_first, "the second"), (write_in_place, "the second")],
)
def test_other_orders_do_not_survive(quick, naive, case):
    """The control: the test above sees a moment in which nothing is left, or half of one has the name of a whole."""
    with pytest.raises((AssertionError, checkpoint.Damaged)):
        kill_at_every_moment(quick, *CASES[case], write=naive)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # the child needs none of the threads
def test_a_kill_leaves_what_the_disk_held(quick):
    """Every fifth moment with kill -9 in a process of its own."""
    ready, written = CASES["the last one again"]
    pretended = [tree(folder) for folder in disks(quick, ready, lambda folder: save(folder, *written))]
    shutil.rmtree(quick / "checkpoints")
    for moment in range(0, len(pretended) - 1, 5):
        folder = quick / "checkpoints"
        for step, value in ready:
            save(folder, step, value)
        child = os.fork()
        if child == 0:
            left = iter(range(moment))
            with at_each_moment(lambda name, left=left: next(left, None) is None and os.kill(os.getpid(), signal.SIGKILL)):
                save(folder, *written)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        killed, copied = tree(folder), pretended[moment]
        assert steady(killed) == steady(copied)
        shutil.rmtree(folder)


def steady(tree):
    """Without the random end of a temporary name."""
    return {name.rpartition(".")[0] if ".writing-latest" in name else name: content for name, content in tree.items()}


@pytest.mark.parametrize("case", CASES)
def test_a_disk_that_is_full_from_any_moment_on(quick, case):
    ready, written = CASES[case]
    before = ready[-1][1] if ready else None
    for moment in range(1000):
        left = iter(range(moment))

        def happens(name, left=left):
            if name in TAKE_ROOM and next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        folder = quick / str(moment)
        folder.mkdir()
        for step, value in ready:
            save(folder, step, value)
        try:
            with at_each_moment(happens):
                save(folder, *written)
        except files.CannotWrite as error:
            assert error.errno == errno.ENOSPC
            assert f"step-{written[0]:08d} cannot be written: No space left on device (0.1 MB are needed, " in str(error)
            assert not list(folder.glob(".writing*"))  # what was half written has made room again
            survives(folder, {before, written[1]}, written[0] + 1)
        else:
            break
    assert 15 < moment < 100


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for about two checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(disk)]
    if sys.platform != "linux" or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes Linux and root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_really_full(small_disk):
    def big(step):
        return checkpoint.write(small_disk / "checkpoints", step, {"model": {"w": torch.full((6000,), float(step))}}, {}, {})

    big(1)
    big(2)
    with pytest.raises(files.CannotWrite, match=r"step-00000003 cannot be written: No space left on device \(0.1 MB are needed, 0.\d MB"):
        big(3)
    assert [checkpoint.read(path)[2]["step"] for path in checkpoint.checkpoints(small_disk / "checkpoints")] == [1, 2]
    assert not list((small_disk / "checkpoints").glob(".writing*"))
    shutil.rmtree(small_disk / "checkpoints" / "step-00000001")
    assert checkpoint.read(big(3))[2]["step"] == 3


def test_the_system_refuses_in_the_middle_of_a_file(tmp_path):
    """The same without being root: a limit on the size of files is met in the middle of a write, by the system and not by a stand-in."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    save(tmp_path, 1, 1.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(files.CannotWrite, match="step-00000002 cannot be written: File too large"):
            checkpoint.write(tmp_path, 2, {"model": {"w": torch.zeros(6000)}}, {}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert value_of(checkpoint.checkpoints(tmp_path)[-1]) == 1.0 and is_tidy(tmp_path)


class Unsynced(AssertionError):
    pass


def write_with_fsync(folder, leave_out=None):
    """Write checkpoints, one again among them, and look at each rename whether what it stands for has been flushed.

    Args:
        leave_out: which call of fsync does nothing.

    Raises:
        Unsynced: after a power failure a name may stand for less than it says.
    """
    dirty, renamed, calls = {}, {}, count()  # by inode
    replace, fsync = os.replace, os.fsync

    def opened(path, mode="r"):
        file = open(path, mode)
        dirty[os.fstat(file.fileno()).st_ino] = path
        dirty[path.parent.stat().st_ino] = path.parent
        return file

    def flush(handle):
        if next(calls) != leave_out:
            fsync(handle)
            for each in (dirty, renamed):
                each.pop(os.fstat(handle).st_ino, None)

    def rename(source, target):
        inside = [source, *source.iterdir()] if source.is_dir() else [source]
        if lost := [path for path in inside if path.stat().st_ino in dirty]:
            raise Unsynced(f"{target} is named before {lost} is flushed")
        removing = target.name.startswith(".removing")
        if removing or target.name == "latest":
            must_be_flushed(renamed, target)
        replace(source, target)
        if not removing:
            renamed[target.parent.stat().st_ino] = target

    def must_be_flushed(renamed, by):
        if renamed:
            raise Unsynced(f"{by} comes before {list(renamed.values())} is flushed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", opened, raising=False)
        patch.setattr(os, "fsync", flush)
        patch.setattr(os, "replace", rename)
        for step, value in ((1, 1.0), (2, 2.0), (2, 2.5), (3, 3.0)):
            save(folder, step, value)
            must_be_flushed(renamed, "the end")
    return next(calls)


def test_what_a_name_stands_for_is_on_the_disk_and_each_fsync_is_needed(quick):
    calls = write_with_fsync(quick / "whole")
    assert calls == 4 * 8  # four files, the manifest and `latest`'s, each directory
    for each in range(calls):
        with pytest.raises(Unsynced):
            write_with_fsync(quick / str(each), leave_out=each)

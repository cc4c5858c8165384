"""A run directory has one writer, and none when that one is gone, however it went."""

import os
import signal
import subprocess
import sys

import pytest

from zoo.train import lock
from zoo.train.lock import alone

HOLDER = """
import os, runpy, sys, time
from pathlib import Path
alone = runpy.run_path(sys.argv[1])["alone"]  # the file alone: the whole package takes seconds
with alone(Path(sys.argv[2])):
    if sys.argv[3:] == ["worker"] and os.fork() == 0:
        time.sleep(60)
    print("held", os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """hold(out, *more): a process of its own that trains into `out`, as far as anybody can tell."""
    running = []

    def hold(*arguments):
        child = subprocess.Popen(
            [sys.executable, "-c", HOLDER, lock.__file__, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        running.append(child)
        assert child.stdout.readline().startswith("held")
        return child

    yield hold
    for child in running:
        os.killpg(child.pid, signal.SIGKILL)
        child.stdout.close()
        child.wait()


def taken(out):
    with alone(out):
        return True


def test_a_second_process_is_refused_and_none_after_a_kill(holder, tmp_path):
    out = tmp_path / "run"
    first = holder(str(out), "worker")
    with pytest.raises(ValueError, match=rf"process {first.pid} on .* is training into .*run; wait for it, or choose another directory"):
        taken(out)
    assert taken(tmp_path / "another")
    os.kill(first.pid, signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    assert (out / ".lock").exists() and taken(out)  # its worker lives on, and holds nothing
    assert not (out / ".lock").exists()


def test_a_lock_that_workers_inherit_would_outlive_the_kill(holder, tmp_path, monkeypatch):
    """The control: with `flock` the orphan of a killed run keeps the lock, and `--resume` would be refused."""
    import fcntl

    monkeypatch.setitem(globals(), "HOLDER", HOLDER.replace("with alone", "import fcntl\nfcntl.lockf = fcntl.flock\nwith alone"))
    monkeypatch.setattr(fcntl, "lockf", fcntl.flock)
    first = holder(str(tmp_path), "worker")
    os.kill(first.pid, signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ValueError, match="is training into"):
        taken(tmp_path)


def test_one_process_does_not_train_twice_into_one_directory(tmp_path):
    with alone(tmp_path), pytest.raises(ValueError, match="of this very process"), alone(tmp_path / "." / "x" / ".."):
        pass
    assert taken(tmp_path)


def test_a_directory_that_nothing_came_into_is_gone_again(tmp_path):
    with alone(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / ".lock").exists()
    assert not (tmp_path / "a").exists()
    with alone(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "model").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["no fcntl", "not supported", "released in between"])
def test_where_there_are_no_locks_training_goes_on(tmp_path, monkeypatch, kind):
    import fcntl

    def refuses(*args):
        raise OSError(95, "Operation not supported")

    def removed_in_between(handle, how, tries=[]):  # noqa: B006, remembers
        tries.append(handle)
        if len(tries) == 1:
            (tmp_path / ".lock").unlink()

    if kind == "no fcntl":
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "lockf", refuses if kind == "not supported" else removed_in_between)
    assert taken(tmp_path) and not list(tmp_path.iterdir())

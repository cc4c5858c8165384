"""The loop and its files: a damaged checkpoint, a full disk, a second writer."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo
from zoo import files
from zoo.train import checkpoint
from zoo.train.lock import alone

GOLDEN = Path(__file__).with_name("golden")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def half(tmp_path):
    """A run that was killed after step 5 of 8, with checkpoints of steps 4 and 5."""
    return shutil.copytree(GOLDEN / "0.1-manifest", tmp_path / "half")


def snapshot(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_is_told_of_and_passed_over(tiny, half, capsys):
    flip(half / "checkpoints" / "step-00000005" / "ema.safetensors")
    taken, task = [], tiny.Tiny()
    task.after_step = lambda: taken.append(sorted(path.name for path in (half / "checkpoints").iterdir()))
    tiny.train(str(half), task, resume=True)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "step-00000005: ema.safetensors is not what was written" in told and "going on from step-00000004" in told
    assert taken[0] == ["damaged-step-00000005", "latest", "step-00000004"] and len(taken) == 4
    assert not list((half / "checkpoints").glob("damaged*"))
    torch.testing.assert_close(task.trainable_module.state_dict(), tiny.train(None).trainable_module.state_dict())


def test_where_none_is_good_or_the_settings_differ_nothing_is_touched(tiny, half):
    flip(half / "checkpoints" / "step-00000005" / "optimizer.pt")
    before = snapshot(half)
    with pytest.raises(ValueError, match="other settings: lr was 0.01 and is 0.5"):
        tiny.train(str(half), resume=True, lr=0.5)
    assert snapshot(half) == before
    flip(half / "checkpoints" / "step-00000004" / "model.safetensors")
    before = snapshot(half)
    with pytest.raises(ValueError, match="step-00000005: optimizer.pt .*; step-00000004: model.safetensors .*; --overwrite"):
        tiny.train(str(half), resume=True)
    assert snapshot(half) == before


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_second_training_into_one_directory_is_refused(tiny, half, how):
    with alone(half):
        before = snapshot(half)
        with pytest.raises(ValueError, match="another training"):
            tiny.train(str(half), **how)
        assert snapshot(half) == before


def test_after_a_training_the_lock_is_gone_however_it_ended(tiny, tmp_path):
    with pytest.raises(ValueError, match="unknown optimizer"):
        tiny.train(str(tmp_path / "a" / "run"), opt="nope")
    assert not (tmp_path / "a").exists()
    tiny.train(str(tmp_path / "run"))
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(disk)]
    if sys.platform != "linux" or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk takes Linux and root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_up_in_the_middle_loses_nothing(tiny, small_disk, tmp_path):
    task, steps = tiny.Tiny(), []

    def fill():
        steps.append(1)
        if len(steps) == 6:
            with (small_disk / "filler").open("wb", buffering=0) as file:
                while file.write(b"x" * 1024) == 1024:
                    pass

    def until_full():
        try:
            fill()
        except OSError as error:
            assert error.errno == errno.ENOSPC

    task.after_step = until_full
    with pytest.raises(OSError, match=r"step-00000006 cannot be written: No space left .*step-00000005 is whole: make room.* --resume"):
        tiny.train(str(small_disk / "run"), task)
    assert not list((small_disk / "run").rglob(".*"))
    (small_disk / "filler").unlink()
    again = tiny.train(str(small_disk / "run"), resume=True)
    whole = tiny.train(str(tmp_path / "whole"))
    for one, other in zip(again.trainable_module.parameters(), whole.trainable_module.parameters(), strict=True):
        assert torch.equal(one, other)
    weights = [(run / "weights").read_bytes() for run in (small_disk / "run", tmp_path / "whole")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("file", ["metrics.jsonl", "weights", "latest"])
def test_a_disk_that_is_full_for_one_file(tiny, half, tmp_path, monkeypatch, file):
    """The log of the epoch, the model, the name of the newest: the run stops, and goes on to the same end."""

    class Half:
        def __init__(self, opened):
            self.opened = opened

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.opened.close()

        def write(self, content):
            self.opened.write(content[: len(content) // 2])
            self.opened.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    wait = {"after": 2}

    def opened(path, mode):
        found = open(path, mode)
        return Half(found) if file in path.name and wait["after"] <= 0 else found

    for module in (files, sys.modules["zoo.train.folder"]):
        monkeypatch.setattr(module, "open", opened, raising=False)
    task = tiny.Tiny()
    task.after_step = lambda: wait.update(after=wait["after"] - 1)
    before = snapshot(half)
    with pytest.raises(OSError, match=rf"{file} cannot be written: No space|step-00000007 cannot be written: No space") as told:
        tiny.train(str(half), task, resume=True)
    assert "is whole: make room, then go on from it with --resume" in str(told.value)
    monkeypatch.undo()
    after = snapshot(half)
    assert all(name in after for name in ("config.json", "weights")) and not any(".writing" in name for name in after)
    for line in after["metrics.jsonl"].decode().splitlines():
        json.loads(line)
    tiny.train(str(tmp_path / "whole"))
    ended = file == "metrics.jsonl"  # it comes after the model, as the sign that the epoch is done
    assert after["weights"] == ((tmp_path / "whole" / "weights").read_bytes() if ended else before["weights"])
    assert checkpoint.newest(half / "checkpoints").contents[2]["step"] >= 6
    again = tiny.train(str(half), resume=True)
    torch.testing.assert_close(again.trainable_module.state_dict(), tiny.train(None).trainable_module.state_dict())
    assert len((half / "metrics.jsonl").read_text().splitlines()) == 2


SCRIPT = """
import importlib.util, os, sys
from pathlib import Path
import torch.distributed as dist
from zoo.train.engine import leave
spec = importlib.util.spec_from_file_location("make", sys.argv[1])
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
out = Path(sys.argv[2])

def train(**how):
    make.train(str(out), batch_size=2, **how)
    dist.barrier()
    return (out / "weights").read_bytes()

whole = train()
dist.barrier()  # both have read it
if os.environ["RANK"] == "0":
    path = out / "checkpoints" / "step-00000008" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (out / "weights").unlink()
dist.barrier()
for _ in range(2):  # from step 7, then from the end
    assert train(resume=True) == whole
leave()
"""


@pytest.mark.long
def test_two_processes_go_on_from_the_same_good_one(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "script.py")]
    arguments = [sys.executable, *command, str(GOLDEN / "make.py"), str(tmp_path / "run")]
    here = str(Path(zoo.__file__).parents[1])
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here})
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())  # lines are broken where a terminal would end
    assert said.count("going on from step-00000007") == 1 and said.count("already trained") == 1

"""torchrun and accelerate start the same command; a process that fails takes the others with it."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed
RECIPE = ["effnet_eca_test", "--data", "digits", "--epochs", "1", "--batch-size", "128", "--device", "cpu"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes", "2"]


def start(launcher: list[str], *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_CONFIG_FILE": os.devnull}
    return subprocess.run([sys.executable, *launcher, "-m", "zoo", "train", *words], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("launcher", [TORCHRUN, [*ACCELERATE, "--multi_gpu"]], ids=["torchrun", "accelerate"])
def test_both_start_two_processes_that_work_together(launcher, tmp_path):
    done = start(launcher, *RECIPE, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["zoo"]
    assert settings["processes"] == 2
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["step"] == 1437 // 256 and done.stderr.count("epoch 1/1") == 1
    assert sum(map(sum, line.get("confusion", []))) in (0, 360)


@pytest.mark.parametrize("flags", [[], ["--cpu"]])
def test_accelerate_that_starts_one_of_two_is_found_out(flags, tmp_path):
    done = start([*ACCELERATE, *flags], *RECIPE, "--out", str(tmp_path / "run"))
    assert "asked for 2 processes and started one" in done.stderr and "--multi_gpu" in done.stderr
    assert done.returncode and not (tmp_path / "run").exists()


def test_a_picture_that_only_one_process_cannot_read_ends_both(tmp_path):
    """Started without torchrun, so that nobody ends the one that is left."""
    from PIL import Image

    for split, rows in (("train", 4), ("val", 2)):
        for name, tone in (("dark", 40), ("bright", 200)):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(rows):
                Image.new("RGB", (32, 32), (tone, tone, number)).save(tmp_path / "data" / split / name / f"{number}.png")
    broken = tmp_path / "data" / "train" / "dark" / "0.png"
    broken.write_bytes(broken.read_bytes()[:40])
    words = ["effnet_eca_test", "--data", str(tmp_path / "data"), "--epochs", "50", "--batch-size", "4", "--device", "cpu"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "zoo", "train", *words, "--img-size", "32", "--out", str(tmp_path / "run")]
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]
    began = time.monotonic()
    told = [process.communicate(timeout=300)[1] for process in both]
    assert time.monotonic() - began < 300
    assert [process.returncode for process in both] == [2, 2], told
    assert sum("process " in text and " of 2 stopped: " in text for text in told) == 1, told
    assert Path(tmp_path / "run").exists()

"""What a loss costs at a batch size: memory beyond its inputs, and time, beside open_clip's loss of the same equation.

Each measurement is a fresh process, since the peak of a process is known only once and what an allocator has kept would hide the next one.
A child makes two sides of unit length, runs the loss once on a few rows, has its peak forgotten, and runs forward and backward once.
The gradients of both sides are among what is counted: 2 N D numbers that every loss needs.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from registry import LOSSES

from ..progress import progress

OPEN_CLIPS = {"clip": "ClipLoss", "siglip": "SigLipLoss"}
MATRICES = {"clip": 4.2, "siglip": 5.2}  # of N x N numbers that open_clip's losses were measured to have alive at their peak
FREE = 0.8  # of the memory that is available: what a measurement may be expected to take
_FEW = 8  # rows of the first run, which pays for threads and kernels


@dataclass(frozen=True)
class LossCost:
    """Of one forward and backward pass: MiB beyond the inputs at the peak, and seconds of processor time."""

    mib: float
    seconds: float


@dataclass(frozen=True)
class LossMeasured:
    """A loss at one batch size; `open_clip` is None where the note says why."""

    loss: str
    rows: int
    ours: LossCost
    open_clip: LossCost | None
    note: str = ""


def _open_clip(name: str) -> Callable[..., Tensor]:
    try:
        from open_clip import loss as theirs
    except ImportError as error:
        raise ImportError("open_clip's losses need open_clip_torch: pip install 'effnet-zoo[open_clip]'") from error
    module = getattr(theirs, OPEN_CLIPS[name])()

    def loss(a: Tensor, b: Tensor, *, logit_scale: Tensor, logit_bias: Tensor | None) -> Tensor:
        return module(a, b, logit_scale) if logit_bias is None else module(a, b, logit_scale, logit_bias)

    return loss


def _status(key: str) -> float:
    """MiB of a line of this process's status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024


def _give_back() -> None:
    """What the allocator has kept goes back to the system: a loss that takes it again is seen to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others keep little
    if trim is not None:
        trim(0)


def measure_here(name: str, whose: str, rows: int, width: int, threads: int, seed: int) -> LossCost:
    """Measure in this process, which should be a fresh one."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    ours = LOSSES[name]
    loss = ours if whose == "ours" else _open_clip(name)
    scale = None if ours.init_logit_scale is None else torch.tensor([ours.init_logit_scale]).exp().requires_grad_()
    bias = None if ours.init_logit_bias is None else torch.tensor([ours.init_logit_bias(rows)]).requires_grad_()

    def run(count: int) -> tuple[float, float, float]:
        a, b = (F.normalize(torch.randn(count, width), dim=-1).requires_grad_() for _ in range(2))
        _give_back()
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten; unlike ru_maxrss, it is not the parent's either
        before, start = _status("VmRSS"), time.process_time()
        loss(a, b, logit_scale=scale, logit_bias=bias).backward()
        return before, _status("VmHWM"), time.process_time() - start

    run(_FEW)
    before, peak, seconds = run(rows)
    return LossCost(mib=peak - before, seconds=seconds)


def _measure(name: str, whose: str, **asked: int) -> LossCost:
    source = "import json, sys; from dataclasses import asdict; import zoo; from zoo.deploy.loss_memory import measure_here as measure; "
    source += "print(json.dumps(asdict(measure(**json.loads(sys.argv[1])))))"
    home = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [sys.executable, "-c", source, json.dumps({"name": name, "whose": whose, **asked})]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": home})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, killed for its memory?"])[-1]
        raise RuntimeError(f"measuring {whose} {name} at {asked['rows']:,} rows failed: {last}")
    return LossCost(**json.loads(done.stdout.splitlines()[-1]))


def _available_gib() -> float:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) / 2**20


def _left_out(name: str, rows: int) -> str:
    """Why open_clip's loss is not measured; empty when it is."""
    if name not in OPEN_CLIPS:
        return "open_clip has no such loss"
    if find_spec("open_clip") is None:
        return "open_clip is not installed: pip install 'effnet-zoo[open_clip]'"
    needed, available = MATRICES[name] * rows**2 * 4 / 2**30, _available_gib()
    if needed > FREE * available:
        return f"open_clip's {OPEN_CLIPS[name]} would take about {needed:.0f} GiB, more than {FREE:.0%} of the {available:.0f} available"
    return ""


def bench_loss(
    losses: Sequence[str], rows: Sequence[int] = (4096, 16384), *, width: int = 512, threads: int = 1, seed: int = 0
) -> list[LossMeasured]:
    """Measure losses with their default options, in float32; one entry a loss and batch size, in the order given.

    Args:
        losses: registered names; `clip` and `siglip` are measured beside open_clip's where it is installed and the memory allows.
        rows: batch sizes.
        width: of the embeddings.
        threads: of each measuring process.
        seed: of the embeddings.

    Raises:
        KeyError: an unknown loss; the message offers the nearest names.
        ValueError: a number below 1.
        OSError: this is not Linux, which alone forgets a peak when asked to.
    """
    for name in losses:
        LOSSES[name]
    for what, number in (("width", width), ("threads", threads), *(("rows", each) for each in rows)):
        if number < 1:
            raise ValueError(f"{what}: expected 1 or more, got {number}")
    if sys.platform != "linux":
        raise OSError(f"the memory of a loss is measured on Linux only, by /proc/self; this is {sys.platform}")
    jobs = [(name, count) for name in dict.fromkeys(losses) for count in dict.fromkeys(rows)]
    found = []
    with progress(2 * len(jobs), "bench") as advance:
        for name, count in jobs:
            asked = {"rows": count, "width": width, "threads": threads, "seed": seed}
            ours = _measure(name, "ours", **asked)
            advance(f"{name}, {count:,} rows")
            note = _left_out(name, count)
            theirs = None if note else _measure(name, "open_clip", **asked)
            advance(f"open_clip's, {count:,} rows")
            found.append(LossMeasured(name, count, ours, theirs, note))
    return found

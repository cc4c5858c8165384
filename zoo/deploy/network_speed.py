"""How fast networks are in PyTorch and in the runtimes that are installed: latency and throughput, all of them in one run.

A cell is a network in a runtime at a batch size. In every round each cell takes its turn: one call that is not timed, which meets what the
cell before it left in the caches, and then some that are. Percentiles are over all calls, by the wall clock, which is what a person waits
for; a ratio is taken within a round. Every cell is given the same pixels, an array [B, C, H, W] of float32, and gives back an array.
"""

import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from registry import nearest

from ..progress import progress, tracked
from .memory_kept import memory_kept
from .rounds import Spread, at_least_one, in_turn, on_threads, ratios, spread
from .ways import PYTORCH, USUAL, WAYS, Opener, Written, many_graphs, told, way_of

ROUNDED = ("openvino-bf16",)  # in fewer bits than the network was measured in
TURN_SECONDS = 0.2  # of a cell in a round
MOST_CALLS = 50  # in a turn
_BUSY = 1.1  # wall clock by processor time, of one thread: above, it had to wait for the processor
_MORE = 1.25  # processor time by wall clock and threads: above, more threads took part than were asked for


@dataclass(frozen=True)
class Worth:
    """How good a network is: a metric in percent, measured on this data."""

    metric: str
    value: float
    data: str


@dataclass(frozen=True)
class Candidate:
    """A network to be measured.

    Args:
        name: what it is called.
        size: of the pictures, [C, H, W].
        network: to be run in every runtime asked for; or a file, which is run by its own.
        bytes: of the file it is in; None: what its weights take.
        parameters, macs: of one picture; None where nobody knows.
        worth: None: not measured.
    """

    name: str
    size: tuple[int, int, int]
    network: nn.Module | Written
    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None
    worth: Worth | None = None


@dataclass(frozen=True)
class Cell:
    """A network in a runtime at a batch size; times in milliseconds.

    Args:
        pixels: a side of the pictures.
        bytes: of the files that the runtime reads.
        parameters, macs: of one picture; None where nobody knows.
        worth: of these numbers: None where the network was never measured, or not in so few bits.
        calls: how many were timed.
        p50, p95, p99: of all calls, by the wall clock: so many percent took no longer.
        latency: of the rounds' medians.
        processor: the same by the processor time of all threads.
        images_per_second: by the wall clock.
        faster: eager's time by this one's, of the same network and batch; None without eager, or of a file.
        faster_processor: the same by processor time.
        rounds: the median of each round, from which a ratio to any other cell can be taken.
        rounds_processor: the same by processor time.
    """

    network: str
    runtime: str
    batch_size: int
    pixels: int
    bytes: int
    parameters: int | None
    macs: int | None
    worth: Worth | None
    calls: int
    p50: float
    p95: float
    p99: float
    latency: Spread
    processor: Spread
    images_per_second: Spread
    faster: Spread | None
    faster_processor: Spread | None
    rounds: tuple[float, ...]
    rounds_processor: tuple[float, ...]


@dataclass(frozen=True)
class LeftOut:
    """What was not measured, and why; network "": no network in this runtime."""

    network: str
    runtime: str
    reason: str


@dataclass(frozen=True)
class NetworksMeasured:
    """`notes` are sentences about what disturbed the numbers."""

    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    memory_kept: bool


@dataclass(frozen=True)
class _Call:
    wall: float
    processor: float


_Key = tuple[str, str, int]


def _timed(work: Callable[[], Any]) -> _Call:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return _Call(time.perf_counter() - wall, time.process_time() - processor)


def take_turns(
    works: Mapping[_Key, Callable[[], Any]], rounds: int, failed: Callable[[_Key, Exception], None], advance: Callable[[str], None]
) -> dict[_Key, list[list[_Call]]]:
    """Calls by round of every work; one that raises is told to `failed`, is in no further round and has no numbers."""
    calls: dict[_Key, int] = {}
    found: dict[_Key, list[list[_Call]]] = {}

    def turn(key: _Key) -> list[_Call]:
        works[key]()
        return [_timed(works[key]) for _ in range(calls.get(key, 1))]

    def attempt(key: _Key) -> list[_Call] | None:
        try:
            return turn(key)
        except Exception as error:  # every runtime has its own kinds
            failed(key, error)
            return None

    for key in works:
        first = attempt(key)  # the warm-up, which says how many calls fill a turn
        if first is not None:
            calls[key] = min(MOST_CALLS, max(1, math.ceil(TURN_SECONDS / max(first[0].wall, 1e-6))))
            found[key] = []
        advance(" ".join(map(str, key)))
    for number in range(rounds):
        for key in in_turn(number, works):
            if key in found:
                taken = attempt(key)
                if taken is None:
                    del found[key]
                else:
                    found[key].append(taken)
            advance(" ".join(map(str, key)))
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed: one that was really there."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def summary(key: _Key, candidate: Candidate, size: int, rounds: Sequence[Sequence[_Call]], eager: Sequence[Sequence[_Call]] | None) -> Cell:
    """A cell from its calls by round, in seconds, and eager's in the same rounds."""
    network, runtime, batch_size = key

    def medians(of: Sequence[Sequence[_Call]], clock: str) -> list[float]:
        return [statistics.median(getattr(call, clock) for call in each) * 1e3 for each in of]

    every = [call.wall * 1e3 for each in rounds for call in each]
    wall, processor = medians(rounds, "wall"), medians(rounds, "processor")
    return Cell(
        network,
        runtime,
        batch_size,
        pixels=candidate.size[-1],
        bytes=size,
        parameters=candidate.parameters,
        macs=candidate.macs,
        worth=None if runtime in ROUNDED and isinstance(candidate.network, nn.Module) else candidate.worth,
        calls=len(every),
        p50=percentile(every, 50),
        p95=percentile(every, 95),
        p99=percentile(every, 99),
        latency=spread(wall),
        processor=spread(processor),
        images_per_second=spread([batch_size * len(each) / sum(call.wall for call in each) for each in rounds]),
        faster=ratios(medians(eager, "wall"), wall) if eager else None,
        faster_processor=ratios(medians(eager, "processor"), processor) if eager else None,
        rounds=tuple(wall),
        rounds_processor=tuple(processor),
    )


def notes(found: Mapping[_Key, Sequence[Sequence[_Call]]], threads: int) -> Iterator[str]:
    """Sentences about what disturbed the numbers, seen by comparing the clocks."""
    clocks: dict[str, tuple[float, float]] = {}
    for (_, runtime, _), rounds in found.items():
        wall, processor = clocks.get(runtime, (0.0, 0.0))
        calls = [call for each in rounds for call in each]
        clocks[runtime] = wall + sum(call.wall for call in calls), processor + sum(call.processor for call in calls)
    for runtime, (wall, processor) in clocks.items():
        if processor > _MORE * threads * wall:
            yield f"{runtime} took the time of {processor / wall:.1f} processors although {threads} was asked for: its threads are its own."
    wall, processor = (sum(each) for each in zip(*clocks.values(), strict=True)) if clocks else (0.0, 0.0)
    if threads == 1 and wall > _BUSY * processor:
        said = f"what takes the processor 1 s took {wall / processor:.1f} s" if processor else "nothing got a processor"
        yield f"The machine was busy: {said}. Measure again when it is quiet."


def bench_networks(
    candidates: Sequence[Candidate],
    batch_sizes: Sequence[int] = (1, 16),
    *,
    runtimes: Sequence[str] = USUAL,
    threads: int = 1,
    rounds: int = 7,
    seed: int = 0,
    keep_memory: bool = True,
) -> NetworksMeasured:
    """Measure networks side by side on the CPU; what cannot be measured is left out, with the reason.

    Args:
        candidates: the networks, no two of one name; eval mode is theirs afterwards.
        runtimes: of WAYS, for networks; a file is run by its own in any case.
        threads: of every runtime.
        rounds: how often everybody takes a turn.
        seed: of the pixels.
        keep_memory: see memory_kept.py; False: as this process was started.

    Raises:
        ValueError: nothing to measure, a name twice, a number below 1, an unknown runtime.
    """
    at_least_one([("threads", threads), ("rounds", rounds), *(("batch_size", each) for each in batch_sizes)])
    for way in runtimes:
        if way not in WAYS:
            raise ValueError(f"unknown runtime {way!r}; {nearest(way, list(WAYS))}")
    if not candidates:
        raise ValueError("no networks: expected at least one")
    twice = [name for name, count in Counter(each.name for each in candidates).items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)}: each network once")
    random = np.random.default_rng(seed)
    left_out: list[LeftOut] = []
    opened: dict[_Key, tuple[Candidate, int]] = {}
    works: dict[_Key, Callable[[], Any]] = {}

    def leave_out(key: _Key, error: Exception, when: str = "") -> None:
        missing = isinstance(error, ImportError)
        each = LeftOut("" if missing else key[0], key[1], f"{'' if missing else when}{told(error)}")
        if each not in left_out:
            left_out.append(each)

    def failed(key: _Key, error: Exception) -> None:
        leave_out(key, error, f"batch {key[2]}: ")

    asked = [
        (number, each, way, batch_size)
        for number, each in enumerate(candidates)
        for way in dict.fromkeys([way_of(each.network)] if isinstance(each.network, Written) else runtimes)
        for batch_size in dict.fromkeys(batch_sizes)
    ]
    with ExitStack() as held:
        held.enter_context(on_threads(threads))
        held.enter_context(torch.random.fork_rng(devices=[]))
        kept = held.enter_context(memory_kept() if keep_memory else nullcontext(False))
        if "compiled" in runtimes:
            held.enter_context(many_graphs())
        open_cell = Opener(Path(held.enter_context(tempfile.TemporaryDirectory())), threads)
        pixels: dict[tuple[int, ...], np.ndarray] = {}
        for number, each, way, batch_size in tracked(asked, len(asked), "prepare"):
            key, shape = (each.name, way, batch_size), (batch_size, *each.size)
            if any(out.runtime == way and out.network in ("", each.name) for out in left_out):
                continue  # what does not open for one batch does not for another
            if shape not in pixels:
                pixels[shape] = random.standard_normal(shape, dtype=np.float32)
            if isinstance(each.network, nn.Module):
                each.network.eval()
            try:
                function, size = open_cell(number, each.network, way, pixels[shape])
            except Exception as error:  # every runtime has its own kinds
                leave_out(key, error)
                continue
            opened[key] = each, (way in PYTORCH and each.bytes) or size
            works[key] = lambda function=function, x=pixels[shape]: function(x)  # type: ignore[misc]
        with progress(len(works) * (rounds + 1), "bench") as advance:
            found = take_turns(works, rounds, failed, advance)
    cells = []
    for key, calls in found.items():
        eager = found.get((key[0], "eager", key[2]))
        cells.append(summary(key, *opened[key], calls, eager))
    return NetworksMeasured(tuple(cells), tuple(left_out), tuple(notes(found, threads)), kept)

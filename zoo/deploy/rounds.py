"""What the benchmarks share: rounds in which everybody takes a turn, so many threads, and what a number means nothing without.

What else the machine is doing meets all that take part in a round; so a ratio is taken within a round, never between rounds.
"""

import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Spread(low, median, high)


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Of two that took part in the same rounds."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def in_turn(number: int, names: Iterable[T]) -> list[T]:
    """Who comes when in a round: every second time the other way round, so that nobody always comes first."""
    forward = list(names)
    return forward if number % 2 else forward[::-1]


def at_least_one(numbers: Iterable[tuple[str, int]]) -> None:
    """
    Raises:
        ValueError: one of the named numbers is below 1.
    """
    for what, number in numbers:
        if number < 1:
            raise ValueError(f"{what}: expected 1 or more, got {number}")


@contextmanager
def on_threads(number: int | None) -> Iterator[None]:
    """So many threads of torch, of which there is one number for the whole process; afterwards as many as before. None changes nothing."""
    before = torch.get_num_threads()
    if number in (None, before):
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def about(threads: int = 1, *more: str) -> dict[str, Any]:
    """Versions, also of `more` packages, and processor: what a number means nothing without."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    packages = {package: version(package) for package in ("effnet-zoo", "torch", "timm", *more)}
    return {
        "versions": {**packages, "python": platform.python_version()},
        "cpu": named or platform.processor() or platform.machine(),
        "threads": threads,
        "dtype": "float32",
    }

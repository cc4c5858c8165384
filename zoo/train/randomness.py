"""Everything random is a function of where it happens.

A row's augmentation is one of (seed, epoch, index), a step's dropout one of (seed, step, rank). So nothing random has to be saved, and
neither a restart nor the number of workers changes a result.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(*key: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(*key: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    seed = mix(*key)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)


_inside = False


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, if wanted, torch takes only algorithms that give the same bits every time, and raises where it has none.

    cuBLAS reads its part when it is first used in a process: a process that has multiplied on the GPU before keeps the workspace it had.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    chosen, workspace = (cudnn.benchmark, cudnn.deterministic), os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn.benchmark, cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark, cudnn.deterministic = chosen
        if workspace is None:
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]


@contextmanager
def untouched() -> Iterator[None]:
    """Random numbers on the CPU go on after it as if nothing had happened inside; within another one it costs nothing and does nothing."""
    global _inside
    if _inside:
        yield
        return
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _inside = True
    try:
        yield
    finally:
        _inside = False
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Random numbers on the CPU are a function of the key inside, and untouched after."""
    with untouched():
        seed = mix(*key)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.default_generator.manual_seed(seed)
        yield

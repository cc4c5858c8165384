"""Everything random is a function of where it happens.

A row's augmentation is one of (seed, epoch, index), a step's dropout one of (seed, step, rank). So nothing random has to be saved, and
neither a restart nor the number of workers changes a result.
"""

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

"""What is held out, and how labels are numbered, where the data does not say so itself.

A row is held out by a hash of its name, not by chance or position: the same file lands on the same side on every machine, in every order,
and adding a file moves at most one other (where a class would otherwise have nothing on one side).
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

EVAL_WORDS = ("eval", "val", "valid", "validation", "test")
"""Names of the eval split, in folders and in the `split` column of manifests. Where several folders are there, the first of these is it."""


HELD_OUT = 0.2
"""The share of the names that is for eval."""


def chance_of(key: str) -> float:
    """A number in [0, 1) that is this name's everywhere; below `HELD_OUT` it is held out."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big") / 2**64


def held_out(keys: Sequence[str], share: float = HELD_OUT) -> np.ndarray:
    """`[len(keys)]` bool: True for eval. About `share` of the keys, one at least on each side if there are two; one alone is for training.

    Args:
        keys: different names, in any order: the answer for a name does not depend on it.
        share: how much is held out.
    """
    chance = np.array([chance_of(key) for key in keys])
    held = chance < share
    if len(keys) > 1:
        held[chance.argmin()] = True
    if len(keys) > 0:
        held[chance.argmax()] = False
    return held


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of their labels: by number if all are whole numbers, so that "10" follows "9", else by name."""
    unique = sorted(set(names))
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in unique):
        unique.sort(key=int)
    return tuple(unique)

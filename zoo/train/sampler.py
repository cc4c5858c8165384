"""Which rows each step takes: a function of (seed, step), with no state of its own, so that a run resumes from one integer.

An epoch is a permutation of all rows, cut into steps of `batch_size x accumulate x world` rows; the rows that do not fill a step wait for
another epoch's permutation. Every process takes every world-th row of a step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Key = tuple[int, int]  # (epoch, row)


@dataclass(frozen=True)
class Plan:
    """The rows of every micro-batch from `start` to the last step; iterating gives lists of (epoch, row), `accumulate` of them a step.

    Args:
        size: rows there are.
        batch_size: rows a process and a micro-batch.
        accumulate, epochs, seed: as in TrainConfig.
        rank, world: this process and how many there are.
        start: the first step to take.
    """

    size: int
    batch_size: int
    epochs: int
    accumulate: int = 1
    seed: int = 0
    rank: int = 0
    world: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        if self.size < self.world * self.accumulate:
            raise ValueError(f"{self.size} training rows are too few for {self.world} processes x {self.accumulate} micro-batches")

    @property
    def rows_per_step(self) -> int:
        return min(self.size // self.world * self.world, self.batch_size * self.accumulate * self.world)  # as many for each process

    @property
    def steps_per_epoch(self) -> int:
        return self.size // self.rows_per_step

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start, self.steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.size)
            first = step % self.steps_per_epoch * self.rows_per_step
            mine = order[first : first + self.rows_per_step][self.rank :: self.world]
            for part in np.array_split(mine, self.accumulate):
                yield [(epoch, int(row)) for row in part]

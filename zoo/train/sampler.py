"""Which rows each step takes: a function of (seed, step), with no state of its own, so that a run resumes from one integer.

An epoch is a permutation of all rows, cut into steps of `batch_size x accumulate x world` rows; the rows that do not fill a step wait for
another epoch's permutation. Every process takes every world-th row of a step. Where rows can only be read forward, the permutation is a
near one: few sources at a time, and within each of them a window.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..datasets.data import Split
from ..datasets.stream import LANES, shuffled

Key = tuple[int, int]  # (epoch, row)


def balanced(train: Split) -> np.ndarray:
    """Weights of the rows, `[N]`, under which every class is drawn as often: one over how many rows have the same label.

    Raises:
        ValueError: a row has no label, or a label that is no class.
    """
    labels = list(train.values("label"))
    if len(labels) < len(train) or not all(isinstance(label, int | np.integer) for label in labels):
        raise ValueError(f"sample: balanced needs one class in the label of every row; the train rows have {', '.join(train.columns)}")
    _, which, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    return 1.0 / counts[which]


@dataclass(frozen=True)
class Plan:
    """The rows of every micro-batch from `start` to the last step; iterating gives lists of (epoch, row), `accumulate` of them a step.

    Args:
        size: rows there are.
        batch_size: rows a process and a micro-batch.
        accumulate, epochs, seed: as in TrainConfig.
        rank, world: this process and how many there are.
        start: the first step to take.
        stretches: how many rows each source has that can only be read forward; None: every row is at hand.
        weights: how often each row is drawn, against the others, with replacement; None takes every row once an epoch.
    """

    size: int
    batch_size: int
    epochs: int
    accumulate: int = 1
    seed: int = 0
    rank: int = 0
    world: int = 1
    start: int = 0
    stretches: tuple[int, ...] | None = None
    weights: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.stretches is not None and self.weights is not None:
            raise ValueError("sample: balanced draws rows at any place, and these data are read forward; give sample all")
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

    def order(self, epoch: int) -> np.ndarray:
        """The rows of an epoch, `[size]`, in order."""
        chance = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        if self.stretches is not None:
            return self._forward(self.stretches, chance)
        if self.weights is None:
            return chance.permutation(self.size)
        return chance.choice(self.size, self.size, p=self.weights / self.weights.sum())

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start, self.steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self.order(epoch)
            first = step % self.steps_per_epoch * self.rows_per_step
            mine = order[first : first + self.rows_per_step][self.rank :: self.world]
            for part in np.array_split(mine, self.accumulate):
                yield [(epoch, int(row)) for row in part]

    def _forward(self, stretches: tuple[int, ...], chance: np.random.Generator) -> np.ndarray:
        """An epoch's rows where sources are read forward: shuffled sources, and rows shuffled within a window.

        Every process has lanes of its own, and so has a worker, if their number goes into that of the lanes: batches take turns among the
        lanes, as workers do among batches. Which worker reads a row changes nothing but how much is read.
        """
        firsts = np.cumsum(stretches) - stretches
        queues: list[list[np.ndarray]] = [[] for _ in range(self.world * LANES)]
        loads = [0] * len(queues)
        for number in chance.permutation(len(stretches)):
            lane = loads.index(min(loads))
            queues[lane].append(firsts[number] + shuffled(stretches[number], chance))
            loads[lane] += stretches[number]
        lanes = [np.concatenate([np.empty(0, dtype=np.int64), *queue]) for queue in queues]
        taken = [0] * len(lanes)

        def take(lane: int, count: int) -> np.ndarray:
            found: list[np.ndarray] = []
            while count:
                if taken[lane] == len(lanes[lane]):  # it is at its end: from the one that has most left
                    lane = max(range(len(lanes)), key=lambda each: len(lanes[each]) - taken[each])
                found.append(lanes[lane][taken[lane] : taken[lane] + count])
                taken[lane] += len(found[-1])
                count -= len(found[-1])
            return np.concatenate([np.empty(0, dtype=np.int64), *found])

        order = np.empty(self.steps_per_epoch * self.rows_per_step, dtype=np.int64)
        for step, rows in enumerate(order.reshape(-1, self.rows_per_step)):
            for rank in range(self.world):
                parts = np.array_split(rows[rank :: self.world], self.accumulate)
                for number, part in enumerate(parts, start=step * self.accumulate):
                    part[:] = take(rank * LANES + number % LANES, len(part))
        return order

"""Requests that come at the same time, computed together, in a thread of their own.

The first that comes waits a little for others that are on their way; those that come while a batch is computed make up the next one. What
is computed is the same as one at a time, up to the order in which a matrix product adds. It knows no event loop, so that any of them, and
any thread, can ask it.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class QueueFull(RuntimeError):
    """As many wait as may wait."""


class Batcher(Generic[Item, Answer]):
    """`submit(item)` -> a future of its answer.

    Args:
        compute: items to as many answers, in their order. It is only ever called by one thread.
        size: items that are computed together, at most.
        wait: seconds that the oldest item waits for others.
        queue: items that wait, at most.
        told: is given the size of each batch.
        coming: how many there are at most to wait for, with those that wait already: who is alone need not wait.
    """

    def __init__(
        self,
        compute: Callable[[list[Item]], Sequence[Answer]],
        *,
        size: int,
        wait: float,
        queue: int,
        told: Callable[[int], None] = lambda size: None,
        coming: Callable[[], int] = lambda: sys.maxsize,
    ):
        self._compute, self._size, self._wait, self._queue = compute, size, wait, queue
        self._told, self._coming = told, coming
        self._waiting: deque[tuple[Item, Future[Answer], float]] = deque()
        self._there = threading.Condition()
        self._closed = False
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)  # one that hangs does not keep the process alive
        self._thread.start()

    def submit(self, item: Item) -> Future[Answer]:
        """A future of the item's answer; cancel it, and the item is dropped if its batch has not begun.

        Raises:
            QueueFull: as many wait as may wait.
            RuntimeError: it has been closed.
        """
        future: Future[Answer] = Future()
        with self._there:
            if self._closed:
                raise RuntimeError("closed: nothing is computed any more")
            if len(self._waiting) >= self._queue:
                self._waiting = deque(each for each in self._waiting if not each[1].cancelled())
            if len(self._waiting) >= self._queue:
                raise QueueFull(f"{len(self._waiting)} wait already")
            self._waiting.append((item, future, time.monotonic()))
            self._there.notify()
        return future

    @property
    def busy(self) -> float:
        """Seconds since the batch that is being computed began; 0 where none is."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def close(self, timeout: float | None = None) -> None:
        """Answer what waits, and end."""
        with self._there:
            self._closed = True
            self._there.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            if batch:
                self._since = time.monotonic()
                self._told(len(batch))
                self._answer(batch)
                self._since = None

    def _next(self) -> list[tuple[Item, Future[Answer]]] | None:
        """Up to `size` items that somebody still waits for; None at the end."""
        with self._there:
            while not self._waiting and not self._closed:
                self._there.wait()
            if not self._waiting:
                return None
            until = self._waiting[0][2] + self._wait
            while len(self._waiting) < min(self._size, self._coming()) and not self._closed and (left := until - time.monotonic()) > 0:
                self._there.wait(left)
            batch: list[tuple[Item, Future[Answer]]] = []
            while self._waiting and len(batch) < self._size:
                item, future, _ = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    batch.append((item, future))
            return batch

    def _answer(self, batch: list[tuple[Item, Future[Answer]]]) -> None:
        try:
            answers = self._compute([item for item, _ in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(batch)} items, {len(answers)} answers")
        except BaseException as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:  # one of them is at fault, and the others are not
                for one in batch:
                    self._answer([one])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)

"""Counts and times in the text that Prometheus reads: a page of it needs no library."""

import bisect
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]):
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, label: str = "") -> Iterator[str]:
        total = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{label}{"," if label else ""}le="{bound}"}} {total}'
        of = f"{{{label}}}" if label else ""
        yield f"{name}_sum{of} {self.sum:.6f}"
        yield f"{name}_count{of} {total}"


class Metrics:
    """What has been answered, how fast, and in batches of which size.

    Args:
        inside: how many requests are being worked on now.
    """

    def __init__(self, inside: Callable[[], int]):
        self._inside = inside
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, _Histogram] = defaultdict(lambda: _Histogram(SECONDS))
        self._batches = _Histogram(SIZES)
        self._lock = threading.Lock()

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request was answered; `path` is one of a few, never what a client made up."""
        with self._lock:
            self._requests[path, status] += 1
            self._seconds[path].add(seconds)

    def batch(self, size: int) -> None:
        with self._lock:
            self._batches.add(size)

    def text(self) -> str:
        with self._lock:
            lines = ["# HELP zoo_requests_total Requests that were answered.", "# TYPE zoo_requests_total counter"]
            lines += [f'zoo_requests_total{{path="{path}",status="{status}"}} {n}' for (path, status), n in sorted(self._requests.items())]
            lines += ["# HELP zoo_request_seconds From a request's head to its whole answer.", "# TYPE zoo_request_seconds histogram"]
            for path in sorted(self._seconds):
                lines += self._seconds[path].lines("zoo_request_seconds", f'path="{path}"')
            lines += ["# HELP zoo_batch_size Requests that were computed together.", "# TYPE zoo_batch_size histogram"]
            lines += self._batches.lines("zoo_batch_size")
            lines += ["# HELP zoo_requests_inside Requests that are being worked on.", "# TYPE zoo_requests_inside gauge"]
            lines += [f"zoo_requests_inside {self._inside()}"]
        return "\n".join(lines) + "\n"

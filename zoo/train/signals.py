"""Ctrl-C and SIGTERM: the step is finished and the run saved; the second one acts at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """Ctrl-C or SIGTERM came; the step was finished and the run saved. `signal` says which it was."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal = signal_number


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted for the end of the step; the second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

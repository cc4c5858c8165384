"""Ctrl-C, SIGTERM and a closed terminal: the step is finished and the run saved; the second signal acts at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """Ctrl-C, SIGTERM or SIGHUP came; the step was finished and the run saved. `signal` says which it was."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal = signal_number


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """SIGINT, SIGTERM and SIGHUP are noted for the end of the step; the second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        wanted.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

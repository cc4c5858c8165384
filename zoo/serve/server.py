"""An application on a socket: bound before it says that it is there, stopped without leaving anybody half answered."""

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from .guard import Guard
from .limits import Limits


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address: 127.0.0.1, ::1, localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """A socket on host and port, which does not listen yet: who comes too early is told so, and does not wait. Port 0: a free one.

    Raises:
        OSError: the port is taken or not allowed, or the machine has no such address; it says which.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # there it would let two servers have one port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        return made
    except OSError as error:
        made.close()
        why = error.strerror or str(error)
        raise OSError(f"{host}, port {port}: {why}; give another --port or --host (--port 0 takes a free one)") from error


def address(bound: socket.socket) -> str:
    """http://127.0.0.1:8000"""
    host, port, *_ = bound.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn's, for which being asked to stop is a good end: it would raise the signal again."""

    def __init__(self, config: uvicorn.Config, app: Guard, started: Callable[[], None]):
        super().__init__(config)
        self._app, self._told = app, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._told()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.stopping = True
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # signals come to that one alone
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def server(app: Guard, limits: Limits, started: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """`server(app, limits).run([bound])` answers until SIGINT or SIGTERM, in a thread until its `should_exit` is set; then it takes nobody
    in, answers those who are inside, and returns. A second SIGINT does not wait.

    Args:
        started: is called when requests are answered.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would write down the token in /?token=
        lifespan="on",
        ws="none",
        server_header=False,
        proxy_headers=False,  # nobody may say that he is somebody else
        timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, round(2 * limits.timeout)),
        backlog=128,
    )
    return _Server(config, app, started)

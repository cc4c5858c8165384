"""A socket before anybody is served."""

import socket

import pytest

from zoo.serve.server import address, bind


def test_a_free_port():
    with bind("127.0.0.1", 0) as bound:
        host, port = bound.getsockname()
        assert address(bound) == f"http://127.0.0.1:{port}" and port > 0
        with pytest.raises(ConnectionRefusedError):  # nobody listens yet
            socket.create_connection((host, port), timeout=1)


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="give another --port"):
        bind("127.0.0.1", other.getsockname()[1])


def test_an_address_of_another_machine():
    with pytest.raises(OSError, match=r"192\.0\.2\.1, port 0"):
        bind("192.0.2.1", 0)

"""Fresh large tensors cost page faults, and none while memory is kept."""

import ctypes
import sys

import pytest
import torch

from zoo.deploy.memory_kept import memory_kept

resource = pytest.importorskip("resource", reason="counts page faults, on Unix")


def faults(times=4):
    """Of tensors of 64 MB, made and let go one after the other, after some for which the heap grows."""
    for _ in range(3):
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's allocator")
def test_page_faults():
    with memory_kept() as kept:
        assert kept and faults() < 1000
    assert faults() > 4000, "afterwards it is as it was"


def test_where_there_is_no_such_allocator(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with memory_kept() as kept:
        assert kept is False

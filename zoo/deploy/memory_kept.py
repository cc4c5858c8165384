"""Large tensors without page faults: memory that was freed is kept for the next tensor, instead of given back to the system.

glibc asks the system for every block above 32 MB anew and gives it back when it is freed, and the system clears each page again when it is
first written: of a batch of sixteen pictures PyTorch's tensors are that large, and a multiplication into a fresh one then takes several
times as long. The other runtimes keep arenas of their own. So that what is compared is the work, not the allocator, a benchmark keeps it
for PyTorch as well; the environment variables MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000 do so for a server.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt
_ALL = 2**31 - 1
_OWN = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}  # where glibc's own rule ends once such blocks were freed


@contextmanager
def memory_kept() -> Iterator[bool]:
    """Whether it could be done: glibc can. Afterwards what was kept is given back."""
    library = ctypes.CDLL(None)
    mallopt, trim = getattr(library, "mallopt", None), getattr(library, "malloc_trim", None)
    if mallopt is None or trim is None:
        yield False
        return
    done = [mallopt(what, value) for what, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _ALL))]
    try:
        yield all(done)
    finally:
        for what, value in _OWN.items():
            mallopt(what, value)
        trim(0)

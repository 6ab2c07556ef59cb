"""What becomes of memory that a process frees.

Decides: how large a block goes back to the system at once, and how often a server's process looks
for objects that only refer to each other.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # <malloc.h>
_LARGE_BLOCK = 2**20
_NEW_OBJECTS = 20_000  # that a collection waits for; by default 700, a dozen requests


def return_freed_blocks() -> None:
    """Have the C library give large blocks back to the system at once, for the whole process.

    glibc, left alone, keeps ever larger ones for later, each thread its own: several times what is
    in use. Other libraries have no such call, or no such habit.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def collect_seldom() -> None:
    """Have the garbage collector look at many new objects at a time, for the whole process.

    For a server that has loaded all that it needs, which is not looked at again. Its requests leave
    hardly anything to collect, and looking for that takes a tenth of its time.
    """
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)

"""What becomes of memory that a process frees.

Decides: how large a block goes back to the system at once.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # <malloc.h>
_LARGE_BLOCK = 2**20


def return_freed_blocks() -> None:
    """Have the C library give large blocks back to the system at once, for the whole process.

    glibc, left alone, keeps ever larger ones for later, each thread its own: several times what is
    in use. Other libraries have no such call, or no such habit.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)

"""Children that tests fork from their own process."""

from __future__ import annotations

import os
import posix
import signal
from collections.abc import Callable


def in_a_child(work: Callable[[], str]) -> str:
    """Fork for real, work in the child, and return what it says."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # ends without telling coverage
        signal.alarm(30)  # one that hangs must not keep the test waiting
        said = b"failed"
        try:
            said = work().encode()
        finally:
            os.write(write, said)
            # Not the one of ``os``: there coverage would first write all that its parent has done.
            posix._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said_by_child = pipe.read().decode()
    os.waitpid(pid, 0)
    return said_by_child

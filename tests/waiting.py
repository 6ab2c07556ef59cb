"""How a test waits for another process or thread: until something holds, never for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


QUIET = 0.1  # seconds; a process of ours writes a line of its log some milliseconds later


def when_quiet(read: Callable[[], T], is_over: Callable[[], bool]) -> T:
    """What ``read`` gives once it has stayed the same for a moment, or its process is over."""
    value = read()
    while not is_over():
        time.sleep(QUIET)
        if (later := read()) == value:
            return value
        value = later
    return read()


def wait_until(predicate: Callable[[], T], timeout: float = 60.0, what: str = "") -> T:
    """The first truthy value of ``predicate``; an AssertionError when none came in time.

    It looks ever less often, as looking takes time from whoever is waited for.
    """
    began = time.monotonic()
    while not (value := predicate()):
        waited = time.monotonic() - began
        if waited > timeout:
            waited_for = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"not within {timeout} s: {waited_for} (last seen: {value!r})")
        time.sleep(min(0.05, 0.01 + waited / 20))  # nothing depends on its length
    return value

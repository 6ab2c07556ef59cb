"""How a test waits for another process or thread: until something holds, never for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout: float = 30.0, what: str = "") -> T:
    """The first truthy value of ``predicate``; an AssertionError when none came in time."""
    give_up_at = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > give_up_at:
            waited_for = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"not within {timeout} s: {waited_for} (last seen: {value!r})")
        time.sleep(0.01)  # the pause between two looks; nothing depends on its length
    return value

"""One call of an application, from its entry to its return.

Decides: what is kept out of the middle of a call. What a call has to say in the log is said when
the outermost call of its thread is over, so that a log handler that sends an e-mail itself finds
nothing half done and nothing held.

Assumes: anything of the application's may run between any two steps of ours, in the same thread
(a signal handler, a finalizer, a listener of the driver), and may call us again; and an exception
that is meant for the thread may be raised at any of them.

Promises: what a call sets for itself is gone with it, however it ends, since it has a context of
its own. ``depth`` tells a call that began in the middle of another: it must use nothing that the
other may be holding, and has its own time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Args = TypeVarTuple("Args")
Line = Callable[[], object]


@dataclass(slots=True)
class _Call:
    depth: int
    lines: list[Line]


_CALL: ContextVar[_Call | None] = ContextVar("call", default=None)
_forks = 0


def run(work: Callable[[*Args], T], *args: *Args) -> T:
    """Do what the application called for."""
    outer = _CALL.get()
    call = _Call(0, []) if outer is None else _Call(outer.depth + 1, outer.lines)
    context = copy_context() if outer is None else Context()  # not with the other's time-out
    try:
        context.run(_CALL.set, call)
        return context.run(work, *args)
    finally:
        while outer is None and call.lines:
            with suppress(Exception):  # what was done is done, whatever a log handler raises
                call.lines.pop(0)()


def depth() -> int:
    """In the middle of how many other calls of its thread the present one began."""
    call = _CALL.get()
    return 0 if call is None else call.depth


def say(line: Line) -> None:
    """Write a line to the log: when the call is over, if this is one."""
    call = _CALL.get()
    if call is None:
        line()
    else:
        call.lines.append(line)


def process() -> tuple[int, int]:
    """This process, as opposed to those that it was forked from: their ids may come again."""
    return os.getpid(), _forks


def _forked() -> None:
    global _forks  # noqa: PLW0603  # of the process, as the hook is
    _forks += 1


os.register_at_fork(after_in_child=_forked)

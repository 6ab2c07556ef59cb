"""Calls that begin in the middle of another call of the same thread.

An application calls ``producer.send()``. While it runs, a signal handler, a finalizer or a listener
of the MongoDB driver may run in the same thread, and may call ``send()`` again. The outer call is
then stopped at an unknown step. It may hold a lock of the driver, or be half through a command on a
connection, and goes on only after the inner call has returned.

Decides: ``depth()`` is 0 in an ordinary call, 1 in a call that began in the middle of it, and so
on. A deeper call uses connections of its own (they are kept by depth) and waits for no other
thread, so it can wait for nothing that the outer call holds. Log lines of a call are written when
the outermost call is over: a log handler that sends an e-mail then finds nothing half done.

Assumes: an exception that is meant for the thread may be raised at any step.

Promises: what a call sets for itself (context variables, its time limit) is gone with it, however
it ends. Any thread may call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Args = TypeVarTuple("Args")
LogLine = Callable[[], object]


@dataclass(slots=True)
class _Call:
    depth: int
    log_lines: list[LogLine]  # one list for a call and all that begin in the middle of it


_CALL: ContextVar[_Call | None] = ContextVar("call", default=None)


def run(work: Callable[[*Args], T], *args: *Args) -> T:
    """Run ``work`` as one call of the application."""
    outer = _CALL.get()
    call = _Call(0, []) if outer is None else _Call(outer.depth + 1, outer.log_lines)
    # An inner call starts from an empty context: the outer call's time limit is not its own.
    context = copy_context() if outer is None else Context()
    try:
        context.run(_CALL.set, call)
        return context.run(work, *args)
    finally:
        while outer is None and call.log_lines:
            with suppress(Exception):  # a log handler that raises must not undo what is stored
                call.log_lines.pop(0)()


def depth() -> int:
    """How many calls of this thread are stopped while the present one runs."""
    call = _CALL.get()
    return 0 if call is None else call.depth


def after_call(line: LogLine) -> None:
    """Write a log line when the outermost call is over; at once outside of any call."""
    call = _CALL.get()
    if call is None:
        line()
    else:
        call.log_lines.append(line)

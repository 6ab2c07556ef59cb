"""Exceptions that strike a thread between any two of its steps, as time-outs of frameworks do."""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from types import FrameType

import pymongo
from bson.errors import InvalidBSON


class Interrupt(BaseException):
    """As ``gevent.Timeout`` is."""


class SoftTimeLimit(Exception):
    """As Celery has one."""


KINDS = (Interrupt, SoftTimeLimit)
# The driver makes the last one of an exception that strikes while it reads a reply.
RAISED = (*KINDS, InvalidBSON)


_DRIVER = str(Path(pymongo.__file__).parent)


def is_in_a_lock(frame: FrameType | None) -> bool:
    """Whether it is the driver's code, or the library's for its locks, that would be struck.

    Struck between taking a lock and its ``with``, either keeps it for ever: whoever asks the driver
    next hangs, which no code of ours can help.
    """
    name = "" if frame is None else frame.f_code.co_filename
    return name.startswith(_DRIVER) or name == threading.__file__


def interrupt(thread: threading.Thread, kind: type[BaseException]) -> None:
    """Raise it in the thread, at its next step, if it runs and no thread is just being started.

    CPython gives a new thread its starter's ident for a moment: an exception for the starter ends
    the new one before it has said that it runs, and ``Thread.start()`` waits for that for ever.
    """
    starting = threading._limbo  # type: ignore[attr-defined]  # of the standard library
    frame = sys._current_frames().get(thread.ident or 0)
    if is_running(thread) and not starting and not is_in_a_lock(frame):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(kind)
        )


def is_running(thread: threading.Thread) -> bool:
    """Whether it does; when it has ended, its ident may be that of a thread that just begins.

    ``is_alive()`` takes a lock for a moment: interrupted there, the thread seems never to end.
    """
    running = threading._active  # type: ignore[attr-defined]  # of the standard library
    return running.get(thread.ident) is thread


def was_interrupted(error: BaseException | None) -> bool:
    """Whether one of these is at the bottom of it: ``Thread.start`` makes a KeyError of one.

    ``Condition.wait``, interrupted before it has its lock again, lets its ``with`` give back the
    one that another thread holds by now; that thread is told so when it gives it back itself.
    """
    while error is not None and not isinstance(error, RAISED) and not _of_a_lock(error):
        error = error.__cause__ or error.__context__
    return error is not None


def _of_a_lock(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "lock" in str(error)

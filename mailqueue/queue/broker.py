"""The port of the queue: what is asked of each kind, and the values that pass through it.

Decides: nothing. A consumer, a producer and a sweeper know of the queue only what stands here.

Assumes of every kind: a job is a hint, so it may be lost, doubled, early or late. MongoDB's guards
decide who owns an e-mail, and the sweeper announces again what is due and has no job.

Promises of every kind: whoever reserves a job has it for the time to run; then, or when it is given
back, another gets it. Where a queue has priorities, the most urgent come first. Trouble is
``QueueUnavailable``, and logged once at the begin and at the end of an outage.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from bson import ObjectId

if TYPE_CHECKING:
    from mailqueue.queue.mongodb import DueEmails

CALLBACKS = ".callbacks"  # ends the name of the tube that says: a callback is due
INTAKE = ".intake"  # ends the name of the tube of other programs' events
STATES = ("ready", "reserved", "delayed", "buried")
LONGEST = 2**32 - 1  # seconds that a job can be put off at all
_ID = re.compile(r"[0-9a-f]{24}")
BACKLOG = 10_000  # announcements that a process remembers while the queue is away


@dataclass(frozen=True, slots=True)
class Announcement:
    """One job to put: which e-mail, how urgent, and in how many seconds."""

    email_id: ObjectId
    priority: int
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class End:
    """How a reserved job ends: ``delete``, ``release`` or ``bury`` (a person may look at it).

    ``delay`` is in whole seconds. ``note`` says why it is buried, where there is room for it.
    """

    word: str
    priority: int = 0
    delay: int = 0
    note: str = ""


DELETED, BURIED = End("delete"), End("bury")


def release_end(priority: int, delay: float) -> End:
    """Put back, to be reserved again in ``delay`` seconds (rounded up)."""
    return End("release", priority, whole_seconds(delay))


def whole_seconds(seconds: float) -> int:
    """Rounded up, so that no job is early."""
    return min(LONGEST, math.ceil(max(0.0, seconds)))


@dataclass(frozen=True, slots=True)
class Options:
    """What a kind of queue is told besides its own settings.

    ``ttr``: whole seconds after which a reserved job is another's. ``keep``: announcements that are
    remembered while the queue is away. ``suffix`` makes the name of another tube of ours. ``store``
    is of who receives: one kind of queue finds there what is due.
    """

    ttr: int
    keep: int = BACKLOG
    suffix: str = ""
    store: DueEmails | None = None


class Holder(Protocol):
    """Where jobs are reserved: it ends them. Any thread may call."""

    def end(self, ends: Mapping[Job, End]) -> None:
        """End jobs that are reserved here, in one exchange; nothing is waited for.

        Raises ``QueueUnavailable``. A job that is not ended comes again.
        """

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Let anybody have these at once, and perhaps others, as they were. Never raises."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A reserved job; its ``holder`` ends it. ``email_id`` is None for a body that is not ours.

    ``turn`` numbers the jobs: that decides whose turn among the vendors it is. ``handle`` is the
    holder's own.
    """

    email_id: ObjectId | None
    turn: int
    holder: Holder
    handle: Any = field(default=None, repr=False)
    body: bytes = field(default=b"", repr=False)


def email_id_of(body: str) -> ObjectId | None:
    """The e-mail that a job of ours names; None: it is another program's."""
    return ObjectId(body) if _ID.fullmatch(body) else None


def turns() -> Iterator[int]:
    """Numbers for jobs, where the queue has none.

    Each process begins elsewhere: many that send one e-mail each must not all begin with the first
    vendor.
    """
    return count(random.randrange(2**31))  # noqa: S311  # no secret


class Receiver(Protocol):
    """Who reserves jobs, for one thread.

    ``name`` is that of the server, ``place`` what is waited at: both are for people.
    """

    name: str
    place: str

    def reserve(self, timeout: int, limit: int = 1) -> list[Job]:
        """Wait up to ``timeout`` whole seconds for a job; with it come up to ``limit`` in all.

        An empty list: there was none. Raises ``QueueUnavailable``.
        """

    def close(self) -> None:
        """Have everything ended that was to end, and give back the rest. Never raises."""


class Broker(Protocol):
    """The queue, as one process knows it. Any thread may call; ``close`` is called last."""

    max_delay: float
    """Seconds. An e-mail that is due later is announced by the sweeper, when it is due."""

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Put jobs; returns those that are on the queue. Never raises, and never waits for long.

        The others are remembered, and put when the queue answers again.
        """

    def receivers(self) -> Sequence[Receiver]:
        """Where jobs come from: one for each server, each for a thread of its own."""

    def depth(self) -> Mapping[str, int] | None:
        """The number of jobs by state (``STATES``). Raises ``QueueUnavailable``.

        None: there is no queue beside MongoDB, so nothing can be missing from it.
        """

    def close(self) -> None:
        """Close this thread's connections, and all that is shared."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A reserved event of another program: its body, empty if it is too large, and its key.

    ``other_key``: under which it may be stored already; empty: there is none. ``name`` is what the
    log calls it; ``handle`` is the receiver's own.
    """

    name: int | str
    body: bytes = field(repr=False)
    key: str
    other_key: str = ""
    handle: Any = field(default=None, repr=False)


class EventReceiver(Protocol):
    """Who reserves events, which are no hints: what is lost here is lost. One thread uses it.

    ``name`` and ``place``: as of a ``Receiver``.
    """

    name: str
    place: str

    def reserve(self, timeout: int, limit: int = 1) -> list[Event]:
        """As ``Receiver.reserve``."""

    def end(self, events: Sequence[Event], how: End) -> None:
        """End events that were reserved here. Never raises: what is not ended comes again."""

    def give_back(self) -> None:
        """Let anybody have at once what is reserved here."""

    def close(self) -> None:
        """Wait until what was to end has ended, and give back the rest."""

"""The e-mails that the tasks of one event loop have handed in, and wait for.

Decides: how much may wait at once (beyond that, a task waits before it hands in), that the writer
hears once of all that is handed in during one turn of the loop, and when a task has waited too long
for a writer that is stuck or gone.

Assumes: the loop's own thread calls all methods; ``forget`` is for a loop that is closed.

Promises: every task hears of its e-mail, at the latest ``GRACE`` seconds after its deadline.
Nothing here blocks, and a loop that is over is not kept in memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from weakref import ref

from mailqueue.errors import StoreUnavailable
from mailqueue.logs import event
from mailqueue.message import Email
from mailqueue.producer.group_commit import GRACE, Entry
from mailqueue.producer.submission import Outcome, Submission

logger = logging.getLogger(__name__)

MAX_SHARES = 1000
SHARE = 64 * 2**10  # bytes; an e-mail has one share, and one more for each so many bytes
NO_ANSWER = "MongoDB: no answer in time"


class PendingSend(Entry[Submission, Outcome]):
    """One call of ``send()``. ``item`` is there once the writer's thread has read the e-mail."""

    __slots__ = ("future", "id", "is_struck", "pending", "read", "shares")
    id: str  # of the stored e-mail

    def __init__(
        self, read: Callable[[], Submission], shares: int, deadline: float, pending: Pending
    ) -> None:
        super().__init__(None, 0, deadline)  # type: ignore[arg-type]  # until it is read
        self.read: Callable[[], Submission] | None = read
        self.is_struck = False  # by an exception while it was read
        self.shares = shares
        self.pending = pending
        self.future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def unavailable(self, problem: str) -> StoreUnavailable:
        """What the task is told when nobody knows whether its e-mail is stored."""
        submission: Submission | None = self.item
        if submission is None:
            return StoreUnavailable(problem)
        return StoreUnavailable(problem, (), [str(submission.id_in(self.pending.env))])


class Pending:
    """What one loop waits for: ``MAX_SHARES`` of e-mails, or a single one that is larger."""

    def __init__(self, env: str, give_up_writer: Callable[[], object]) -> None:
        self.env = env
        self._give_up_writer = give_up_writer
        self.loop = ref(asyncio.get_running_loop())
        self._calls: dict[PendingSend, None] = {}  # in order
        self._shares = 0
        self._newcomers: deque[asyncio.Future[None]] = deque()
        self._is_starting = self._is_watching = False

    def has_room(self, shares: int) -> bool:
        """Whether so much more may wait."""
        return not self._calls or self._shares + shares <= MAX_SHARES

    async def wait_for_room(self, shares: int) -> None:
        """Return when so much more may wait."""
        while not self.has_room(shares):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._newcomers.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._admit(1)  # it was our turn: the next one has it
                raise

    def add(self, call: PendingSend, start: Callable[[], object]) -> None:
        """Wait for this call, too; ``start`` is called once the tasks of this turn have run."""
        self._calls[call] = None
        self._shares += call.shares
        loop = asyncio.get_running_loop()
        if not self._is_starting:
            self._is_starting = True
            loop.call_soon(self._start, start)
        if not self._is_watching:
            self._watch_until(call.deadline)

    def _start(self, start: Callable[[], object]) -> None:
        self._is_starting = False
        start()

    def resolve(self, calls: Iterable[PendingSend]) -> None:
        """Let the tasks of these calls go on, as they are done; a cancelled one hears nothing."""
        freed = 0
        for call in calls:
            if call not in self._calls:
                continue
            del self._calls[call]
            self._shares -= call.shares
            freed += call.shares
            if call.future.done():
                continue
            if call.error is None:
                call.future.set_result(call.id)
            else:
                call.future.set_exception(call.error)
        self._admit(freed)

    def _admit(self, number: int) -> None:
        """Wake so many newcomers; each needs a share or more, and looks whether they are there."""
        while number and self._newcomers:
            turn = self._newcomers.popleft()
            if not turn.done():
                turn.set_result(None)
                number -= 1

    def forget(self) -> None:
        """The loop is closed: nobody waits any more."""
        self._calls.clear()
        self._newcomers.clear()

    # A writer that is stuck or gone ------------------------------------------------------------

    def _watch_until(self, deadline: float) -> None:
        self._is_watching = True
        seconds = max(0.0, deadline + GRACE - time.monotonic())
        asyncio.get_running_loop().call_later(seconds, self._watch)

    def _watch(self) -> None:
        """Give up what the writer should have answered by now, and the writer with it."""
        self._is_watching = False
        latest = time.monotonic() - GRACE
        overdue = [call for call in self._calls if call.deadline <= latest]
        for call in overdue:
            if not call.future.done():
                call.future.set_exception(call.unavailable(NO_ANSWER))
        if overdue:
            event(logger, logging.ERROR, "writer.stuck", emails=len(overdue))
            self.resolve(overdue)
            self._give_up_writer()
        if self._calls:
            self._watch_until(min(call.deadline for call in self._calls))


def shares_of(email: object) -> int:
    """How much of the room an e-mail takes; of what has not been read yet, a guess."""
    if isinstance(email, Email):
        parts: list[Any] = [email.text, email.html, *email.attachments]
    elif isinstance(email, dict):
        files = email.get("attachments")
        parts = [email.get("text"), email.get("html"), *(files if type(files) is list else ())]
    else:
        return 1
    return 1 + sum(map(_length, parts)) // SHARE


def _length(part: Any) -> int:
    content = part.get("content") if isinstance(part, dict) else getattr(part, "content", part)
    return len(content) if isinstance(content, str | bytes) else 0

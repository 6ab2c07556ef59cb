"""Receiving from several queues at once, without a storm of requests when they are empty.

Decides: how a queue is asked. As long as it brings messages, it is asked at once for as many as
there is room for. Then one request waits at it for up to five seconds, in a thread of its own, so
that no queue waits for another. That request brings one message: it says that there is work, and
whoever has room asks for more.

Assumes: one thread receives. A request that waits is answered when a message comes, and an
unfinished one must not be left behind: the message that it was given is hidden for long.

Promises: no more than one message of each queue is here that nobody has room for. What fails while
nobody waits is asked again, and what came meanwhile is not lost.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.sqs.client import BATCH, READ_TIMEOUT, Message, Queue

POLL = 5  # seconds that a request waits at an empty queue; a stop waits as long


class Line:
    """One queue, and what came from it and waits."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.waiting: deque[tuple[float, Message]] = deque()
        self.is_polled = False
        self.is_empty = False  # the last request that waited brought nothing

    def add(self, messages: Sequence[Message], now: float) -> None:
        self.waiting.extend((now, message) for message in messages)

    def drop_older(self, than: float) -> None:
        """Forget messages that others may have by now."""
        while self.waiting and self.waiting[0][0] < than:
            self.waiting.popleft()

    def take(self, limit: int) -> list[Message]:
        return [self.waiting.popleft()[1] for _ in range(min(limit, len(self.waiting)))]


class Messages:
    """The messages of several queues, those of the first one first.

    ``visibility``: seconds that a message is hidden from others. ``outage`` hears of every answer,
    and of what failed.
    """

    def __init__(
        self,
        queues: Sequence[Queue],
        visibility: int,
        outage: Outage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines = [Line(each) for each in queues]
        self._visibility, self._outage, self._clock = visibility, outage, clock
        self._answers: queue.SimpleQueue[tuple[Line, Sequence[Message] | BaseException]]
        self._answers = queue.SimpleQueue()

    def receive(self, timeout: int, limit: int) -> list[tuple[Queue, Message]]:
        """Up to ``limit`` messages; where there are none, wait up to ``timeout`` seconds for one.

        Raises ``QueueUnavailable``.
        """
        with suppress(QueueUnavailable):  # of some time ago: who asks now finds out
            self._collect(0.0)
        end = self._clock() + timeout
        try:
            while not self._fill(timeout, limit) and (seconds := end - self._clock()) > 0:
                self._collect(seconds)
        except QueueUnavailable as error:
            self._outage.begin(str(error))
            raise
        messages: list[tuple[Queue, Message]] = []
        for line in self._lines:
            messages += [(line.queue, each) for each in line.take(limit - len(messages))]
        return messages

    def _fill(self, timeout: int, limit: int) -> bool:
        """Ask for what there is room for; whether anything is there."""
        room = limit
        for line in self._lines:
            line.drop_older(self._clock() - self._visibility / 2)
            if not line.is_polled and room > len(line.waiting):
                self._ask(line, timeout, room)
            room -= len(line.waiting)
        return room < limit

    def _ask(self, line: Line, timeout: int, room: int) -> None:
        if timeout or line.is_empty:
            line.is_polled = True
            poll = threading.Thread(target=self._poll, args=(line,), name="sqs-poll", daemon=True)
            poll.start()
            return
        while (missing := min(BATCH, room - len(line.waiting))) > 0:
            page = line.queue.receive(missing, self._visibility)
            self._add(line, page)
            if len(page) < missing:
                return

    def _poll(self, line: Line) -> None:
        """Wait at a queue; in a thread of its own."""
        try:
            self._answers.put((line, line.queue.receive(1, self._visibility, POLL)))
        except BaseException as error:  # noqa: BLE001  # the thread that receives raises it
            self._answers.put((line, error))

    def _collect(self, timeout: float) -> None:
        """Take in what came from waiting; waits up to ``timeout`` seconds for it."""
        trouble: BaseException | None = None
        with suppress(queue.Empty):
            while True:
                line, answer = (
                    self._answers.get(timeout=timeout) if timeout else self._answers.get_nowait()
                )
                timeout, line.is_polled = 0, False
                if isinstance(answer, BaseException):
                    trouble = answer
                    continue
                line.is_empty = not answer
                self._add(line, answer)
        if trouble is not None:
            raise trouble

    def _add(self, line: Line, messages: Sequence[Message]) -> None:
        line.add(messages, self._clock())
        self._outage.end()

    def close(self) -> None:
        """Wait for the requests under way, and show to anybody what nobody took. Never raises."""
        end = self._clock() + POLL + READ_TIMEOUT
        while any(line.is_polled for line in self._lines) and self._clock() < end:
            with suppress(Exception):
                self._collect(1)
        for line in self._lines:
            with suppress(QueueUnavailable):  # they come again when their time is over
                line.queue.hide([m["ReceiptHandle"] for _, m in line.waiting], 0)
            line.waiting.clear()

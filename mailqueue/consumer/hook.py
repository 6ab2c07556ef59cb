"""The application's hook: a callable that hears of each end of an e-mail.

Decides: that it cannot change the flow. It runs in a thread of its own, behind a queue that has
room for ``ROOM`` ends. What comes while that is full is dropped, and counted.

Assumes: ``put`` is called once an end is stored. Nothing here without a hook.

Promises: whatever the hook does, nobody waits for it, except ``close``, for some seconds.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from mailqueue.logs import Once, event, place
from mailqueue.store.ends import EmailEnd

logger = logging.getLogger(__name__)

ROOM = 10_000  # ends


class Hook:
    """A thread that calls ``on_event``. ``put`` is for any thread."""

    def __init__(self, on_event: Callable[[EmailEnd], object]) -> None:
        self._on_event = on_event
        self._ends: queue.Queue[EmailEnd | None] = queue.Queue(ROOM)
        self._bugs = Once()
        self._is_given_up = False
        self._counting = threading.Lock()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="hook", daemon=True)
        self._thread.start()

    def put(self, end: EmailEnd) -> None:
        """Have the hook called with it, soon."""
        try:
            self._ends.put_nowait(end)
        except queue.Full:
            with self._counting:
                self.dropped += 1
                is_first = self.dropped == 1
            if is_first:
                event(logger, logging.ERROR, "hook.full", room=ROOM)

    def _run(self) -> None:
        while (end := self._ends.get()) is not None:
            try:
                self._on_event(end)
            except BaseException as error:  # noqa: BLE001  # whatever an application's code raises
                facts = {"id": end.id, "error": type(error).__name__, "at": place(error)}
                event(logger, self._bugs.level(facts["at"]), "hook.raised", **facts)
            if self._is_given_up:
                return

    def close(self, seconds: float) -> None:
        """Let it hear of what waits, for at most so long."""
        until = time.monotonic() + seconds
        with suppress(queue.Full):
            self._ends.put(None, timeout=seconds)
            self._thread.join(max(0.0, until - time.monotonic()))
        self._is_given_up = True
        waiting = sum(end is not None for end in list(self._ends.queue))
        if (unheard := self.dropped + waiting) or self._thread.is_alive():
            event(logger, logging.ERROR, "hook.not_finished", unheard=unheard)

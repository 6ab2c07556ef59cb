"""Announcing stored e-mails over servers of which some may be away, whatever kind they are.

Decides: which server gets which job, and how a producer behaves while a server is away.

Assumes: an announcement is harmless when doubled, and the sweeper finds what is forgotten here.

Promises: announcing never raises. An outage costs the caller one failed try, then nothing. There is
no lock that an interrupted thread could hold: what threads share changes in single steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from mailqueue.errors import QueueUnavailable
from mailqueue.outage import Outage
from mailqueue.queue.broker import BACKLOG, Announcement


class Announcer:
    """Puts jobs by ``put``, which raises ``QueueUnavailable``. Any thread may call.

    ``put`` may return those that the server did not take although it answers.
    After a failed put a server is left alone for 1 s, doubling to 30 s. What could not be put waits
    in a backlog of the newest 10,000 (or ``keep``), and goes out with the next success, ``PAGE`` in
    a put. The sweeper finds in MongoDB what the backlog drops.
    """

    REST, REST_MAX, PAGE = 1.0, 30.0, 500

    def __init__(
        self,
        put: Callable[[str, Sequence[Announcement]], Sequence[Announcement] | None],
        outages: Mapping[str, Outage],
        *,
        keep: int = BACKLOG,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._put_on, self._clock = put, clock
        self._servers, self._outages = tuple(outages), outages
        self._rests: dict[str, tuple[float, float]] = {}  # until when, and for how many seconds
        self._backlog: deque[Announcement] = deque(maxlen=keep)
        self._next = 0  # counts puts, so that they go round the servers

    def announce(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Put jobs, spread over the servers; returns those on the tube, keeps the others.

        Never raises.
        """
        on_tube: list[Announcement] = []
        servers = len(self._servers)
        for first in range(min(servers, len(announcements))):
            share = announcements[first::servers]
            rest = self._put(share)
            self._backlog.extend(rest)
            left_out = set(map(id, rest))
            on_tube += [each for each in share if id(each) not in left_out]
        if on_tube or not announcements:  # a server answers, or may again
            self._announce_backlog()
        return on_tube

    def _announce_backlog(self) -> None:
        while self._backlog:
            page: list[Announcement] = []
            with suppress(IndexError):  # another thread takes from it, too
                while len(page) < self.PAGE:
                    page.append(self._backlog.popleft())
            if page and (rest := self._put(page)):
                self._backlog.extendleft(reversed(rest))
                return

    def _put(self, announcements: Sequence[Announcement]) -> Sequence[Announcement]:
        """Put jobs on the next server that takes them; returns those that none took."""
        servers = self._servers
        self._next += 1
        for i in range(len(servers)):
            server = servers[(self._next + i) % len(servers)]
            if self._rests.get(server, (0.0, 0.0))[0] > self._clock():
                continue
            try:
                rest = self._put_on(server, announcements)
            except QueueUnavailable as error:
                self._rest(server)
                self._outages[server].begin(str(error))
                continue
            self._rests.pop(server, None)
            self._outages[server].end()
            return rest or ()
        return announcements

    def _rest(self, server: str) -> None:
        until, seconds = self._rests.get(server, (0.0, 0.0))
        if until > self._clock():
            return  # another thread failed at the same time
        seconds = min(self.REST_MAX, max(self.REST, seconds * 2))
        self._rests[server] = (self._clock() + seconds, seconds)

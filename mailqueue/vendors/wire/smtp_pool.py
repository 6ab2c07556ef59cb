"""The connections of this process to one SMTP server, shared by all its threads.

Decides: who gets which connection, when a new one is opened, and when its failure is held against
the server.

Servers take so many connections at a time and answer 421 to more. Where one cannot be opened while
others work, the server is well: the e-mail waits for one of these, and for a while no more are
opened. If that takes too long, the e-mail is given back: a ``throttled`` of our own.
Only when this process holds no working connection does the failure count.

Assumes: a connection that was taken is given back or said to be lost, by the same thread.

Promises: never more than ``connections`` at a time, idle ones among them. State is decided under
the lock; connections are opened and closed outside of it.
"""

from __future__ import annotations

import smtplib
import ssl
import threading
import time
import weakref
from collections.abc import Sequence

from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.vendors.wire import IDLE_SECONDS, trust
from mailqueue.vendors.wire.deadline import Call
from mailqueue.vendors.wire.smtp_connection import Connection, Failed

PATIENCE = 5.0  # seconds to wait for a connection
FULL_SECONDS = 30.0  # before it is tried again whether the server takes more
BUSY = SendResult(
    outcome=Outcome.THROTTLED,
    code="no_connection",
    detail="none came free",
    answered=False,
    our_fault=True,
)
TROUBLE = (OSError, smtplib.SMTPException)

_pools: weakref.WeakValueDictionary[VendorConfig, Pool] = weakref.WeakValueDictionary()
_registry = threading.Lock()


class Pool:
    """Connections by one configuration. ``tls`` is for all of them."""

    def __init__(self, config: VendorConfig) -> None:
        self.tls: ssl.SSLContext = trust.own_context(config)
        self._config = config
        self._most: int = config.keys.get("connections") or 10**6
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        self._lent = self._opening = self._users = 0
        self._full_at: int | None = None
        self._full_until = 0.0

    def join(self) -> None:
        """One more uses this pool."""
        with self._changed:
            self._users += 1

    def leave(self) -> None:
        """One does no more; the last one closes what is idle."""
        with self._changed:
            self._users -= 1
            idle: list[Connection] = []
            if not self._users:
                idle, self._idle = self._idle, idle
        listens = True
        for connection in idle:
            if listens:
                listens = connection.say_goodbye()
            connection.close()

    def take(self, call: Call, now: float) -> Connection:
        """A connection that is ready for MAIL; ``now`` is the time by which ``give`` dates them.

        Raises ``Failed``, also when none came free, and whatever opening one raises.
        """
        until = min(time.monotonic() + PATIENCE, call.deadline)
        while True:
            connection = self._kept(now, until)
            if connection is None:
                connection = self._opened(call, until)
            elif not connection.take_over(call):
                self.lost(connection)
                connection = None
            if connection is not None:
                return connection

    def give(self, connection: Connection, now: float) -> None:
        """Back for the next e-mail; those that are not needed any more are closed."""
        connection.used_at = now
        with self._changed:
            self._lent -= 1
            old = self._too_old(now)
            keep = self._users > 0
            if keep:
                self._idle.append(connection)
            self._changed.notify_all()
        for each in old:
            each.close()
        if not keep:
            connection.say_goodbye()

    def lost(self, connection: Connection) -> None:
        """Close one that was taken."""
        connection.close()
        with self._changed:
            self._lent -= 1
            self._changed.notify_all()

    def crowded(self) -> bool:
        """Say that the server has too many connections, one that is lent among them.

        False: that one is the only one, so it is not our doing.
        """
        with self._changed:
            others = self._lent - 1 + len(self._idle)
            if others > 0:
                self._note_full(others + self._opening)
            return others > 0

    # Under the lock ----------------------------------------------------------------------------

    def _kept(self, now: float, until: float) -> Connection | None:
        """An idle connection; None: a new one may be opened. Raises ``Failed`` when time is up."""
        with self._changed:
            old = self._too_old(now)
            while not self._idle and not self._may_open():
                pause = until - time.monotonic()
                if pause <= 0:
                    raise Failed(BUSY)
                self._changed.wait(pause)
            kept = self._idle.pop() if self._idle else None
            if kept is None:
                self._opening += 1
            else:
                self._lent += 1
        for connection in old:
            connection.close()
        return kept

    def _too_old(self, now: float) -> Sequence[Connection]:
        """Take out those that idled so long that they may be dead without our knowing."""
        old = [c for c in self._idle if now - c.used_at > IDLE_SECONDS]
        self._idle = [c for c in self._idle if c not in old]
        return old

    def _may_open(self) -> bool:
        number = self._lent + self._opening + len(self._idle)
        if number >= self._most:
            return False
        if self._full_at is None or number < self._full_at or not number:
            return True
        if time.monotonic() < self._full_until:
            return False
        self._note_full(self._full_at)  # one tries
        return True

    def _note_full(self, number: int) -> None:
        self._full_at, self._full_until = number, time.monotonic() + FULL_SECONDS

    # Opening -----------------------------------------------------------------------------------

    def _opened(self, call: Call, until: float) -> Connection | None:
        """A new connection; None: not now, but others work. Else raises what went wrong."""
        connection = None
        try:
            connection = Connection(self._config, self.tls, call)
            connection.prepare()
        except BaseException as error:
            if connection is not None:
                connection.close()
            if self._others_work(until) and isinstance(error, (Failed, *TROUBLE)):
                return None
            raise
        with self._changed:
            self._opening -= 1
            self._lent += 1
            self._full_at = None
            self._changed.notify_all()
        return connection

    def _others_work(self, until: float) -> bool:
        """After a failure; where others are being opened, what comes of these is waited for."""
        with self._changed:
            self._opening -= 1
            self._changed.notify_all()
            while self._opening and not self._lent and not self._idle:
                pause = until - time.monotonic()
                if pause <= 0:
                    break
                self._changed.wait(pause)
            working = self._lent + len(self._idle)
            if working:
                self._note_full(working + self._opening)
            return working > 0


def pool(config: VendorConfig) -> Pool:
    """The process's pool for this configuration. Raises ConfigError for files of no use."""
    with _registry:
        found = _pools.get(config)
        if found is None:
            found = _pools[config] = Pool(config)
        return found

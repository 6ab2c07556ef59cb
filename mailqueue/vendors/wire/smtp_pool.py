"""The connections of this process to one SMTP server, shared by all its threads.

Decides: which thread gets which connection, when a new one is opened, and when a failure to open
one counts against the server.

Servers limit the connections at a time and answer 421 to more. If one cannot be opened while others
work, the server is available: the e-mail waits for one of these, and for a while no more are
opened. If that takes too long, the e-mail goes back to the queue, as ``throttled`` and our fault.
The failure counts only if this process has no working connection.

With ``connections`` all processes of the host together have no more than that (``host_places``). A
process that waits for one says so; then the others close a connection after its e-mail, instead of
keeping it, and those that are idle.

Assumes: the thread that took a connection gives it back or discards it.

Promises: never more than ``connections`` at a time, including idle ones. State changes under the
lock; connections are opened and closed outside of it.
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
from mailqueue.vendors.wire.host_places import HostPlaces, Place
from mailqueue.vendors.wire.smtp_connection import Connection, StepFailed

WAIT_SECONDS = 5.0  # for a connection
PLACE_LOOK = 0.05  # between two looks for a place that another process has
IDLE_LOOK = 0.2  # between two looks whether another process waits for one
FULL_SECONDS = 30.0  # until the next try whether the server takes more connections
BUSY = SendResult(
    outcome=Outcome.THROTTLED,
    code="no_connection",
    detail="none came free",
    answered=False,
    our_fault=True,
)
CONNECTION_ERRORS = (OSError, smtplib.SMTPException)

_pools: weakref.WeakValueDictionary[VendorConfig, Pool] = weakref.WeakValueDictionary()
_registry = threading.Lock()


class Pool:
    """The connections of one configuration. Any thread may call."""

    def __init__(self, config: VendorConfig) -> None:
        self.tls: ssl.SSLContext = trust.own_context(config)
        self._config = config
        self._max: int = config.keys.get("connections") or 10**6
        self._places = _places(config)
        self._watching = False  # a thread gives up idle connections that another process wants
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        self._in_use = self._opening = self._users = 0
        # The number of connections at which the server refused another one, and until when we
        # believe that. Below that number a new one may be opened at any time.
        self._full_at: int | None = None
        self._full_until = 0.0

    def join(self) -> None:
        """Count one more user of this pool."""
        with self._changed:
            self._users += 1

    def leave(self) -> None:
        """Count one user less; the last one closes the idle connections."""
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
        """A connection that is ready for MAIL; ``now`` is on the same clock as ``give``'s.

        Raises ``StepFailed``, also if none came free, and what opening one raises.
        """
        until = min(time.monotonic() + WAIT_SECONDS, call.deadline)
        while True:
            connection = self._idle_connection(now, until)
            if connection is None:
                place = None if self._places is None else self._places.take()
                if self._places is not None and place is None:
                    self._wait_for_place(self._places, until)
                    continue
                connection = self._open(call, until, place)
            elif not connection.take_over(call):
                self.discard(connection)
                connection = None
            if connection is not None:
                return connection

    def give(self, connection: Connection, now: float) -> None:
        """Keep the connection for the next e-mail; close it if no user is left."""
        connection.used_at = now
        with self._changed:
            self._in_use -= 1
            old = self._too_old(now)
            needed = self._users > 0 and not (self._places and self._places.is_wanted())
            if needed:
                self._idle.append(connection)
                self._watch()
            self._changed.notify_all()
        for each in old:
            each.close()
        if not needed:
            connection.say_goodbye()

    def discard(self, connection: Connection) -> None:
        """Close a connection that was taken."""
        connection.close()
        with self._changed:
            self._in_use -= 1
            self._changed.notify_all()

    def note_too_many(self) -> bool:
        """Note that the server refused a connection in use since it has too many.

        False: it is this process's only one, so others take the server's connections.
        """
        with self._changed:
            others = self._in_use - 1 + len(self._idle)
            if others > 0:
                self._note_full(others + self._opening)
            return others > 0

    # Under the lock ----------------------------------------------------------------------------

    def _idle_connection(self, now: float, until: float) -> Connection | None:
        """An idle connection; None: open a new one. Raises ``StepFailed`` when time is up."""
        with self._changed:
            old = self._too_old(now)
            while not self._idle and not self._may_open():
                pause = until - time.monotonic()
                if pause <= 0:
                    raise StepFailed(BUSY)
                self._changed.wait(pause)
            connection = self._idle.pop() if self._idle else None
            if connection is None:
                self._opening += 1
            else:
                self._in_use += 1
        for each in old:
            each.close()
        return connection

    def _too_old(self, now: float) -> Sequence[Connection]:
        """Take out the connections that idled so long that they may be dead."""
        old = [c for c in self._idle if now - c.used_at > IDLE_SECONDS]
        self._idle = [c for c in self._idle if c not in old]
        return old

    def _may_open(self) -> bool:
        number = self._in_use + self._opening + len(self._idle)
        if number >= self._max:
            return False
        if self._full_at is None or number < self._full_at or not number:
            return True
        if time.monotonic() < self._full_until:
            return False
        self._note_full(self._full_at)  # so that only this thread tries
        return True

    def _note_full(self, number: int) -> None:
        self._full_at, self._full_until = number, time.monotonic() + FULL_SECONDS

    # Opening -----------------------------------------------------------------------------------

    def _open(self, call: Call, until: float, place: Place | None) -> Connection | None:
        """A new connection; None: it failed, but others work. Else raises the error."""
        connection = None
        try:
            connection = Connection(self._config, self.tls, call, place)
            connection.prepare()
        except BaseException as error:
            if connection is not None:
                connection.close()
            if place is not None:
                place.release()
            if self._others_work(until) and isinstance(error, (StepFailed, *CONNECTION_ERRORS)):
                return None
            raise
        with self._changed:
            self._opening -= 1
            self._in_use += 1
            self._full_at = None
            self._changed.notify_all()
        return connection

    def _wait_for_place(self, places: HostPlaces, until: float) -> None:
        """Other processes have all places: wait a moment. Raises ``StepFailed`` when time is up."""
        wanted = places.wait()
        with self._changed:
            self._opening -= 1
            self._changed.wait(PLACE_LOOK)
        wanted.release()
        if time.monotonic() >= until:
            raise StepFailed(BUSY)

    def _watch(self) -> None:
        """Have a thread look after idle connections, while there are some."""
        if self._places is not None and not self._watching:
            threading.Thread(target=self._give_up_idle, name="smtp-idle", daemon=True).start()
            self._watching = True

    def _give_up_idle(self) -> None:
        """Close the idle connections when another process waits for a place."""
        while True:
            time.sleep(IDLE_LOOK)
            with self._changed:
                idle: list[Connection] = []
                if self._places is not None and self._places.is_wanted():
                    idle, self._idle = self._idle, []
                self._watching = is_needed = bool(self._idle)
            for connection in idle:
                connection.say_goodbye()
                connection.close()
            if not is_needed:  # by now there may be another thread that watches
                return

    def _others_work(self, until: float) -> bool:
        """Whether the process has a working connection; waits for those that are being opened."""
        with self._changed:
            self._opening -= 1
            self._changed.notify_all()
            # Several threads may begin at once, when there is no connection yet. One failure among
            # them says little: if another one succeeds, the server is available, only full.
            while self._opening and not self._in_use and not self._idle:
                pause = until - time.monotonic()
                if pause <= 0:
                    break
                self._changed.wait(pause)
            working = self._in_use + len(self._idle)
            if working:
                self._note_full(working + self._opening)
            return working > 0


def _places(config: VendorConfig) -> HostPlaces | None:
    """The places at this server, for all processes of the host; None: there is no limit."""
    keys = config.keys
    if (number := keys.get("connections")) is None:
        return None
    name = f"{keys.get('host')}:{keys.get('port')}:{keys.get('username')}"
    return HostPlaces(name, number)


def pool(config: VendorConfig) -> Pool:
    """The process's pool for this configuration. Raises ConfigError for unusable TLS files."""
    with _registry:
        shared = _pools.get(config)
        if shared is None:
            shared = _pools[config] = Pool(config)
        return shared

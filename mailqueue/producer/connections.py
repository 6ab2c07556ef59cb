"""The connections of an application's processes, and the calls that it makes over them.

Decides: when connections are opened (at a process's first call), which ones a call uses, and what a
call does while MongoDB is known to be away: one looks whether that is over, the others do not wait.

Assumes: the connections that a process inherits through a fork are its parent's, and unusable.

Promises: any thread may call, in any process. There is no lock that a fork could leave locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from mailqueue import reentrancy
from mailqueue.outage import Outage
from mailqueue.producer import stand_in
from mailqueue.producer.submission import Outcome, Submission, prepare
from mailqueue.store import ids

if TYPE_CHECKING:
    from pymongo import MongoClient

    from mailqueue.config import Config
    from mailqueue.producer.storage import Storage

T = TypeVar("T")
Process = tuple[int, int]


class Connections:
    """What ``Producer`` and ``AsyncProducer`` have in common below their methods.

    ``client``: the application's own; it is never closed here.
    """

    def __init__(
        self, config: Config, env: str, client: MongoClient[dict[str, Any]] | None
    ) -> None:
        self.config, self.env = config, env
        self._application_client = client
        self.outage = Outage("mongodb")
        # By process, since connections do not survive a fork, and by depth (see ``reentrancy``).
        self.opened: dict[tuple[Process, int], Storage] = {}

    def storage(self) -> Storage:
        """This process's connections.

        ``storage`` is imported here: it loads pymongo and greenstalk, and an application that only
        imports us need not wait for them.
        """
        test_double = stand_in.present
        if test_double is not None:
            return test_double.storage(self)
        process, depth = ids.process(), reentrancy.depth()
        storage = self.opened.get((process, depth))
        if storage is None:
            from mailqueue.producer.storage import Storage

            outer = self.opened.get((process, 0))
            announcer = outer.announcer if outer else None  # has its connections by depth itself
            new = Storage.open(
                self.config, self.env, self._application_client, self.outage, announcer
            )
            # No lock: a child forked while another thread holds it could never take it.
            storage = self.opened.setdefault((process, depth), new)
            if storage is not new:  # another thread was faster
                new.store.close()
        return storage

    @property
    def client(self) -> MongoClient[dict[str, Any]]:
        """The application's own client, or this process's."""
        own = self._application_client
        return self.storage().store.client if own is None else own

    def close(self) -> None:
        """Close this process's connections, except those of the application's own client."""
        process = ids.process()
        for key in [key for key in self.opened if key[0] == process]:
            self.opened.pop(key).close()

    @property
    def is_away(self) -> bool:
        """Whether MongoDB is known to be away; connects to nothing."""
        storage = self.opened.get((ids.process(), 0))
        return storage is not None and storage.store.is_away

    def call(self, work: Callable[[Storage], T], *, one_clock: bool = True) -> T:
        """Run ``work`` as one call of the application, within ``mongodb.timeout`` if ``one_clock``.

        Otherwise each write of it has that time.
        """
        return reentrancy.run(self._run, work, one_clock)

    def _run(self, work: Callable[[Storage], T], one_clock: bool) -> T:
        storage = self.storage()
        store = storage.store
        if one_clock:
            store.start_clock()
        if store.is_away:
            with store.unless_away():
                return work(storage)
        return work(storage)

    def write(self, submissions: list[Submission]) -> list[Outcome]:
        """Store the e-mails of several callers as one page; returns the outcome of each."""
        storage = self.storage()
        storage.ensure_indexes(submissions)
        outcomes: dict[Submission, Outcome] = {**prepare(submissions, self.config, self.env)}
        new = [each for each in submissions if each not in outcomes]
        outcomes |= storage.store_page(new)
        return [outcomes[each] for each in submissions]

    def announce(self, outcomes: Iterable[Outcome]) -> None:
        """Put the jobs of new e-mails. Never raises."""
        self.storage().announce(outcomes)

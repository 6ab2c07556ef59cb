"""The outbox: e-mails stay in memory while an application is tested.

Decides: how a producer is redirected. While an outbox is in use, every ``Producer`` and
``AsyncProducer`` of the process asks it for its storage, also one that was made before. All else is
the producer's own code: what it refuses, and why, is the same.

Assumes: one outbox at a time. A test process is forked before it is used, if at all.

Promises: nothing is connected to, and nothing leaves. A producer that was made without a
configuration file cannot reach a server after the outbox is over.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, overload

from mailqueue.config import Config
from mailqueue.config import file as config_file
from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.message import Email
from mailqueue.producer import stand_in
from mailqueue.producer.storage import Storage
from mailqueue.testing.memory_store import MemoryStore, NoQueue

if TYPE_CHECKING:
    from mailqueue.producer.connections import Connections
    from mailqueue.producer.submission import Priority

_PRIORITIES = {number: name for name, number in PRIORITIES.items()}
# RFC 6761: there is no such host. What is not configured is not sent to a server by accident. The
# time-out holds in the outbox too, for the thread that takes an asyncio task's e-mail.
_NOWHERE = {"uri": "mongodb://outbox.invalid/?directConnection=true", "timeout": 2.0}


@dataclass(frozen=True, slots=True)
class SentEmail:
    """An e-mail that the application handed over, and its options. Times are aware (UTC).

    ``id``: as ``send()`` returned it. ``vendors``: those that it may go to; None: all.
    """

    id: str
    email: Email
    priority: Priority
    send_at: datetime | None
    expires_at: datetime | None
    idempotency_key: str | None = field(repr=False)
    callback_url: str | None = field(repr=False)
    request_id: str | None
    vendors: tuple[str, ...] | None


class Outbox(Sequence[SentEmail]):
    """The e-mails that an application has sent, the first one first, without those it cancelled.

    ``with Outbox() as outbox:`` every ``Producer`` and ``AsyncProducer`` of this process keeps its
    e-mails here. ``config``: the configuration of producers that name a file, or none. Without it
    they read their file if it is there, and otherwise have the defaults, and no vendors.

    Any thread may send. Raises ``RuntimeError`` if an outbox is in use already.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._config = config
        self._store = MemoryStore()
        self._storages: dict[Connections, Storage] = {}

    def __enter__(self) -> Self:
        if stand_in.present is not None:
            raise RuntimeError("an Outbox is in use already: leave it first")
        stand_in.present = self
        return self

    def __exit__(self, *_: object) -> None:
        stand_in.present = None
        self._storages.clear()

    # The e-mails -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._store.queued())

    @overload
    def __getitem__(self, index: int) -> SentEmail: ...
    @overload
    def __getitem__(self, index: slice) -> list[SentEmail]: ...
    def __getitem__(self, index: int | slice) -> SentEmail | list[SentEmail]:
        documents = self._store.queued()[index]
        if isinstance(documents, list):
            return [_sent(document) for document in documents]
        return _sent(documents)

    def __repr__(self) -> str:
        return f"Outbox({len(self)} e-mails)"

    def clear(self) -> None:
        """Forget all e-mails and their keys, and the failures of ``fail_next``."""
        self._store.clear()

    def fail_next(self, error: Exception | type[Exception], times: int = 1) -> None:
        """Have the next call of any producer raise ``error``, and store nothing; ``times`` calls.

        ``StoreUnavailable`` is what an application has to expect. A call that is refused as
        ``InvalidEmail`` does not count.
        """
        failure = error("a failure that the test asked for") if isinstance(error, type) else error
        self._store.failures.extend([failure] * times)

    # What producers ask ------------------------------------------------------------------------

    def config(self, path: str | os.PathLike[str] | None) -> Config:
        """The configuration of a producer that was given this path. Raises ``ConfigError``."""
        if self._config is not None:
            return self._config
        file = config_file.place(path, os.environ)
        if not file.exists():
            return Config.from_mapping({"mongodb": _NOWHERE})
        return Config.load(file, secrets=False)

    def storage(self, connections: Connections) -> Storage:
        """The storage of a producer: its own, since e-mails are merged by it, over one store."""
        storage = self._storages.get(connections)
        if storage is None:
            store = copy(self._store)
            store.env = connections.env
            storage = self._storages.setdefault(connections, Storage(store, NoQueue()))
        return storage


def _sent(document: dict[str, Any]) -> SentEmail:
    return SentEmail(
        id=str(document["_id"]),
        email=Email.from_document(document["email"]),
        priority=_PRIORITIES[document["priority"]],  # type: ignore[arg-type]  # the names of them
        send_at=document.get("send_at"),
        expires_at=document.get("expires_at"),
        idempotency_key=document.get("idempotency_key"),
        callback_url=document.get("callback_url"),
        request_id=document.get("request_id"),
        vendors=tuple(document["route"]) if "route" in document else None,
    )

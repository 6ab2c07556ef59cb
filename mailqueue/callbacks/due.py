"""The callbacks that are due: finding, claiming and settling them in the e-mails' documents.

Decides: what is claimed next, and when one that failed is due again. Those of hosts that have no
room now are left out of the search, so that they hide no others.

Assumes: ``store.callbacks`` has the guarded updates.

Promises: a callback is claimed by one process at a time, for ``lease`` seconds by the server's
clock. What comes of it is durable when ``settle`` returns, and that of concurrent callers is
written together. Raises ``StoreUnavailable``. Any thread may call.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from random import uniform
from typing import Any
from urllib.parse import urlsplit

from bson import ObjectId

from mailqueue.callbacks.event import Callback
from mailqueue.config import Callbacks
from mailqueue.errors import StoreUnavailable
from mailqueue.producer.group_commit import CommitTimeout, GroupCommit
from mailqueue.store import callbacks, ids
from mailqueue.store.callbacks import DUE, DUE_AT, Settlement
from mailqueue.store.mongo import readable
from mailqueue.store.store import Store

FIRST_BACKOFF, LONGEST_BACKOFF = 5.0, 3600.0  # seconds
GIVE_UP_AFTER = 3 * 86_400.0  # seconds


class DueCallbacks:
    """The callbacks of the e-mails in ``store``, which are of one kind (``env``)."""

    def __init__(self, store: Store, settings: Callbacks, lease: float) -> None:
        self._store, self._url, self._lease = store, settings.url, lease
        self._events = store.collection(".events")
        self._urls = readable(store.emails)
        self._commit: GroupCommit[Settlement, None] = GroupCommit(self._write)

    def ensure_indexes(self) -> None:
        """Create the indexes of what is due, and of what failed.

        Only an installation with a responder, or with metrics, has them.
        """
        with self._store.operation():
            for fields, partial in callbacks.INDEXES.items():
                names = [(field, 1) for field in fields]
                self._store.emails.create_index(names, partialFilterExpression=partial)

    def url(self, document: Mapping[str, Any]) -> str:
        """Where the callbacks of an e-mail go; empty: nowhere any more."""
        own = document.get("callback_url")
        return own if type(own) is str else self._url or ""

    def find(self, limit: int, without: Collection[str]) -> dict[ObjectId, str]:
        """Up to ``limit`` e-mails of which a callback is due, each with its host.

        ``without``: hosts that are left out.
        """
        match = {"env": self._store.env, DUE_AT: {"$lte": self._store.now()}, **self._not(without)}
        with self._store.operation():
            documents = list(self._urls.find(match, {"callback_url": 1}, limit=limit))
        return {document["_id"]: host(self.url(document)) for document in documents}

    def _not(self, hosts: Collection[str]) -> dict[str, Any]:
        if not hosts:
            return {}
        names = "|".join(map(re.escape, hosts))
        urls: list[dict[str, Any]] = [
            {"callback_url": {"$regex": rf"^https?://\[?({names})\]?([:/?]|$)", "$options": "i"}}
        ]
        if host(self._url or "") in hosts:
            urls.append({"callback_url": {"$exists": False}})
        return {"$nor": urls}

    def claim(self, email_ids: Sequence[ObjectId]) -> list[Callback]:
        """Claim a callback of each of these e-mails; returns those that are mine now."""
        nonce = ids.new()
        write = callbacks.claim_write(email_ids, self._store.env, nonce, self._lease)
        _, refused = self._store.bulk.write([write], self._store.timeout)
        self._store.bulk.give_up(refused)
        mine = {"_id": {"$in": list(email_ids)}, "callbacks.nonce": nonce}
        return [
            Callback(stored, entry, nonce)
            for stored in self._store.find_heads(mine)
            for entry in stored.document.get("callbacks", ())
            # Beside it may stand anything. Without its id what comes of it could not be stored.
            if isinstance(entry, Mapping) and entry.get("nonce") == nonce
            if type(entry.get("id")) is str
        ]

    def body(self, callback: Callback) -> bytes:
        """The callback's body; for what a vendor told, with what it told first."""
        if "recipient" not in callback.entry:
            return callback.body({})
        match = {"email_id": callback.stored.id, "type": callback.word}
        with self._store.operation():
            events = list(self._events.find(match).sort("received_at", 1).limit(100))
        about = (callback.recipient or "").lower()
        own = (e for e in events if str(e.get("recipient") or about).lower() == about)
        return callback.body(next(own, {}))

    def settle(self, callback: Callback, state: str, code: str, wait: float = 0.0) -> float:
        """Write down what came of a post. With DUE: when it is due again, in how many seconds.

        ``wait``: seconds that the receiver asks for.
        """
        tries = callback.entry["tries"]
        delay = max(_backoff(tries), min(wait, LONGEST_BACKOFF)) if state == DUE else 0.0
        settlement = Settlement(
            email_id=callback.stored.id,
            id=callback.id,
            token=callback.entry["token"],
            nonce=callback.nonce,
            state=state,
            code=code,
            delay=delay,
            expires_after=GIVE_UP_AFTER,
        )
        try:
            self._commit.submit(settlement, self._store.timeout, 0)
        except CommitTimeout:
            raise StoreUnavailable("MongoDB: no answer in time") from None
        return delay

    def _write(self, batch: list[Settlement]) -> list[None]:
        writes = [callbacks.settle_write(each) for each in batch]
        _, refused = self._store.bulk.write(writes, self._store.timeout)
        self._store.bulk.give_up(refused)
        return [None] * len(batch)


def _backoff(tries: int) -> float:
    """At random, so that what failed together does not come again together."""
    seconds = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(tries - 1, 30))
    return seconds * uniform(0.8, 1.2)  # noqa: S311  # no secret


def host(url: str) -> str:
    """The host of a URL, in lower case."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""

"""The ends of e-mails as MongoDB has seen them, beside those of which somebody was told."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.lifecycle.outcomes import Status
from mailqueue.store.ends import EmailEnd
from mailqueue.store.store import Store

End = tuple[str, str]  # an id and a status
FINAL = [status.value for status in Status if status.final]


class Told:
    """What the processes of a test, each with its own ``Store``, were told."""

    def __init__(self) -> None:
        self.ends: list[EmailEnd] = []

    def by(self, store: Store) -> Store:
        """Hear what this one tells."""
        store.ends.listener = self.ends.append
        return store

    @property
    def counts(self) -> Counter[End]:
        """How often each e-mail was said to have ended so."""
        return Counter((end.id, str(end.status)) for end in self.ends)


class StoredEnds:
    """Every change of an e-mail's status to an end, from now on, whoever makes it.

    MongoDB's own change stream tells: no writer can forget it.
    """

    def __init__(self, emails: Collection[dict[str, Any]]) -> None:
        self._emails = emails
        self._stream = emails.watch(max_await_time_ms=100)
        self._counts: Counter[End] = Counter()

    @property
    def counts(self) -> Counter[End]:
        """How often each e-mail has ended so."""
        mark = self._emails.insert_one({}).inserted_id
        self._emails.delete_one({"_id": mark})
        while True:
            change = self._stream.next()
            email_id: ObjectId = change["documentKey"]["_id"]
            if email_id == mark:
                return self._counts
            fields = change.get("updateDescription", {}).get("updatedFields", {})
            if (status := fields.get("status")) in FINAL:
                self._counts[str(email_id), status] += 1

    def close(self) -> None:
        self._stream.close()

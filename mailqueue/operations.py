"""What an operator does with e-mails: retry, mark as sent, cancel. By whatever means he is asked.

Decides: which e-mails an operation would change, in which order, and what is told of it. What may
be changed, and how, is decided in ``store.interventions``.

Promises: what is counted, previewed and changed is chosen by the same filter. E-mails are changed
page by page; what was changed has its jobs (or a sweeper makes them) if the rest is interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId

from mailqueue.lifecycle.outcomes import Status
from mailqueue.queue.broker import Announcement, Broker
from mailqueue.store import ids, interventions
from mailqueue.store.document import Stored
from mailqueue.store.interventions import Verb
from mailqueue.store.store import Store

MOST_SHOWN = 20  # rows of what was changed: its number, above them, stays on the screen
Advance = Callable[[int], object]


def _silent(_: int) -> None:
    """Nobody looks on."""


@dataclass(slots=True)
class Changes:
    """What was changed. Of very many e-mails only the ids are kept.

    ``uncertain``: those of them that were to be cancelled, but a copy may have left. ``rows``: the
    first ones, each with its id, status and reason before, and its status after. ``announced``:
    whether the queue has a job for each that needs one.
    """

    verb: Verb
    ids: list[ObjectId] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    announced: bool = True

    def add(self, emails: Sequence[Stored]) -> None:
        """Note these, as they were before."""
        for stored in emails:
            after = _after(self.verb, stored)
            self.ids.append(stored.id)
            if after is Status.UNCERTAIN:
                self.uncertain.append(str(stored.id))
            if len(self.rows) < MOST_SHOWN:
                before = stored.document.get("status"), stored.document.get("reason")
                self.rows.append((str(stored.id), *before, after))


class Operation:
    """One operation on the e-mails that ``match``. All calls raise ``StoreUnavailable``.

    ``by``: who asked for it, for the e-mail's document. ``nonce``: with that of an earlier call,
    what that call has changed is not changed again.
    """

    def __init__(
        self,
        store: Store,
        verb: Verb,
        match: Mapping[str, Any],
        *,
        by: str = "",
        nonce: ObjectId | None = None,
    ) -> None:
        self._store, self._verb, self._by = store, verb, by
        self._nonce = nonce or ids.new()
        # With the guard of the verb: what is counted, previewed and changed is the same.
        once = [{"interventions.nonce": {"$ne": nonce}}] if nonce else []
        self._allowed = {"$and": [match, interventions.guard(verb), *once]}

    def count(self, limit: int) -> int:
        """How many e-mails it would change, counted up to ``limit``."""
        return self._store.count(self._allowed, limit)

    def last(self, limit: int) -> ObjectId | None:
        """The newest of the ``limit`` oldest that it would change; None: there is none."""
        pages = list(self._store.find_ids(self._allowed, limit))
        return pages[-1][-1] if pages else None

    def preview(self, limit: int | None = None, advance: Advance = _silent) -> Changes:
        """What it would change, of the ``limit`` oldest. ``advance``: as for ``run``."""
        changes = Changes(self._verb)
        for page_ids in self._store.find_ids(self._allowed, limit):
            changes.add(self._page(page_ids))
            advance(len(page_ids))
        return changes

    def run(self, broker: Broker, limit: int | None = None, advance: Advance = _silent) -> Changes:
        """Change the e-mails, at most the ``limit`` oldest, durably.

        ``advance`` hears how many more were gone through, after each page.
        """
        changes, announced = Changes(self._verb), 0
        for page_ids in self._store.find_ids(self._allowed, limit):
            # The ids of a page at a time: there may be a million of them.
            page = self._page(page_ids)
            written = self._store.intervene(
                [stored.id for stored in page], self._verb, self._nonce, self._by
            )
            emails = [stored for stored in page if stored.id in written]
            changes.add(emails)
            if self._verb is Verb.RETRY:
                # Page by page: if this is interrupted, what was changed so far has its jobs.
                announced += len(emails) - announce(broker, emails)
            advance(len(page_ids))
        changes.announced = self._verb is not Verb.RETRY or announced == len(changes.ids)
        return changes

    def refusals(self, chosen: Sequence[ObjectId], changes: Changes) -> dict[str, str]:
        """Those of ``chosen`` that were not changed, and why, as they are now."""
        changed = set(changes.ids)
        unchanged = [email_id for email_id in chosen if email_id not in changed]
        if not unchanged:
            return {}
        stored = {e.id: e for e in self._store.find({"_id": {"$in": unchanged}}, len(unchanged))}
        return {
            str(email_id): interventions.refusal(self._verb, stored.get(email_id))
            for email_id in unchanged
        }

    def _page(self, page_ids: Sequence[ObjectId]) -> list[Stored]:
        match = {"$and": [self._allowed, {"_id": {"$in": page_ids}}]}
        return self._store.find(match, len(page_ids), "_id")


def announce(broker: Broker, emails: Sequence[Stored]) -> int:
    """Put their jobs; returns how many could not be put."""
    jobs = [Announcement(stored.id, stored.job_priority) for stored in emails]
    return len(jobs) - len(broker.announce(jobs))


def _after(verb: Verb, before: Stored) -> Status:
    """The status that the verb gives to an e-mail that it changes."""
    if verb is Verb.RETRY:
        return Status.QUEUED
    if verb is Verb.MARK_SENT:
        return Status.SENT
    # A cancelled e-mail is uncertain if a copy may have left: see ``store.interventions``.
    may_have_left = before.document.get("unknowns") != 0 or before.document.get("pin") is not None
    return Status.UNCERTAIN if may_have_left else Status.CANCELLED

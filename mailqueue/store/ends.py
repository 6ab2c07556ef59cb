"""Who is told that an e-mail has ended: the log, and the application's hook.

Decides: the line of each end and of each attempt that failed, and what it says. Whoever has written
something that can end an e-mail says so here, so that each end is told once, by the process that
stored it.

Assumes: what is told is stored. Where the number of matched documents does not tell what was
written, or where a late yes may have made something else of it than was decided, the document is
read. That is seldom: an outcome is unknown, or a document damaged.

Promises: no address, subject, body or word of a vendor but its ``code``. Nothing here fails a
write: while MongoDB is away, what was decided is told. Any thread may call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from bson.errors import BSONError
from pymongo.collection import Collection as MongoCollection

from mailqueue.errors import StoreUnavailable
from mailqueue.lifecycle.outcomes import Decision, Outcome, Reason, Status
from mailqueue.logs import event, event_each
from mailqueue.store.document import Document
from mailqueue.store.mongo import Mongo, majority_reads
from mailqueue.store.transitions import Aside, Change
from mailqueue.store.written import (
    is_of_attempt,
    is_sent_by_late_yes,
    may_be_overruled,
    yes_of_settlement,
)

logger = logging.getLogger(__name__)

FIELDS = ("status", "reason", "vendor", "request_id")  # of an e-mail that has ended
MAX_DOUBTED = 10_000  # changes of which it is not known whether they are written
_LATE_YES = (*FIELDS, "lease.token", "late_accept.token", "late_accept.vendor")
_LINES = ("attempts.token", "attempts.late", "attempts.extra_copy")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailEnd:
    """An e-mail's end, as it is stored; nothing of its content.

    ``event``: ``email.sent``, ``email.failed``, ``email.uncertain`` or ``email.cancelled``.
    ``vendor``: the one whose answer ended it; None: there was none. ``at``: this host's clock.
    """

    event: str
    id: str
    status: Status
    reason: str | None
    vendor: str | None
    request_id: str | None
    at: datetime


class Ends:
    """Those of the e-mails in a collection, as far as this process writes them.

    ``listener`` hears of each; it must return at once.
    """

    def __init__(self, mongo: Mongo, emails: MongoCollection[dict[str, Any]]) -> None:
        self._mongo, self._emails = mongo, majority_reads(emails)
        self.listener: Callable[[EmailEnd], object] | None = None
        self._doubted: set[tuple[ObjectId, int]] = set()

    # What was written --------------------------------------------------------------------------

    @contextmanager
    def in_doubt(self, changes: Sequence[Change | Aside]) -> Iterator[None]:
        """Remember these if writing them fails: a later try may find them written."""
        try:
            yield
        except StoreUnavailable:
            if len(self._doubted) > MAX_DOUBTED:  # most were never tried again
                self._doubted.clear()
            self._doubted.update(map(_name, changes))
            raise

    def tell(
        self,
        changes: Sequence[Change | Aside],
        written: Collection[ObjectId] | None = None,
        own: int | None = None,
        set_aside: Collection[ObjectId] = (),
    ) -> None:
        """Tell of changes that are ``written``, except those that another process wrote alike.

        ``written`` None: all are, by this write. ``own``: so many of them it has matched; None: all
        of them, or that is not known.
        ``set_aside``: e-mails that were to be claimed, and whose document takes no claim.
        """
        mine = changes
        if written is not None:
            # Two jobs of one e-mail may have led to the same change twice.
            mine = list({change.id: change for change in changes if change.id in written}.values())
        if own is not None:
            mine = self._without_others(mine, own)
        # Nearly all were sent, by a yes that nothing overrules.
        sent: list[Change] = []
        others: list[Change | Aside] = []
        for each in mine:
            if isinstance(each, Change) and each.decision.status is Status.SENT and _is_yes(each):
                sent.append(each)
            else:
                others.append(each)
        self._tell_sent(sent)
        if others:
            self._tell_others(others)
        if set_aside:
            self.tell_stored(set_aside, Reason.UNREADABLE)

    def _tell_sent(self, sent: Sequence[Change]) -> None:
        if logger.isEnabledFor(logging.INFO):
            event_each(logger, logging.INFO, "email.sent", list(map(_facts_of_sent, sent)))
        if self.listener is not None:
            for each in sent:
                self._hear(each.id, Status.SENT, None, each.vendor, each.request_id)

    def _tell_others(self, changes: Sequence[Change | Aside]) -> None:
        unclear = [c.id for c in changes if isinstance(c, Aside) or may_be_overruled(c)]
        documents = self._read(unclear, _LATE_YES)
        for change in changes:
            document = documents.get(change.id)
            if isinstance(change, Change):
                self._tell_change(change, document)
            elif document is not None:
                self._tell_document(document)

    def _without_others(self, written: Sequence[Change | Aside], own: int) -> list[Change | Aside]:
        """Those of them that this process wrote.

        The settlement of a claim is only its owner's. Of rescues and of queued e-mails that end,
        which any process may write, the number tells: mostly all are our own, or none.
        """
        doubted: list[Change | Aside] = []
        rest: list[Change | Aside] = []
        for change in written:
            (doubted if _name(change) in self._doubted else rest).append(change)
        self._doubted.difference_update(map(_name, doubted))
        if own <= 0:
            return doubted
        claimed = [c for c in rest if isinstance(c, Change) and c.nonce is not None]
        return [*doubted, *(rest if own > len(claimed) else claimed)]

    def _tell_change(self, change: Change, document: Document | None) -> None:
        decision, vendor = change.decision, change.vendor
        yes = None if document is None else yes_of_settlement(change, document)
        has_failed = change.result is not None and not _is_yes(change)
        if has_failed and not is_of_attempt(yes, change):
            self._tell_failure(change, Status.SENT if yes is not None else None)
        facts: dict[str, object] = {}
        if yes is not None:
            facts["late"], vendor = True, yes.get("vendor")
        elif not decision.status.final:
            return
        elif change.seconds is not None:
            facts["ms"] = _ms(change.seconds)
        if decision.refused:
            facts["refused"] = len(decision.refused)
        status, reason = (decision.status, decision.reason) if yes is None else (Status.SENT, None)
        self._tell_end(change.id, status, reason, vendor, change.request_id, facts)

    def tell_stored(self, ids: Collection[ObjectId], reason: Reason) -> None:
        """Tell of e-mails as they are stored by now, if they have ended for this ``reason``."""
        for document in self._read(ids, FIELDS).values():
            if document.get("reason") == reason:
                self._tell_document(document)

    def tell_late_yeses(self, lines: Collection[tuple[ObjectId, int]]) -> None:
        """Tell of e-mails that the late yes of these ledger lines (their tokens) made sent."""
        documents = self._read({email_id for email_id, _ in lines}, (*_LATE_YES, *_LINES))
        for email_id, token in lines:
            if is_sent_by_late_yes(document := documents.get(email_id, {}), token):
                self._tell_document(document, late=True)

    def _tell_document(self, document: Document, **facts: object) -> None:
        with suppress(ValueError, KeyError):  # it has not ended, or its status is none
            status = Status(document["status"])
            if status.final:
                reason, vendor, request_id = (_text(document.get(name)) for name in FIELDS[1:])
                self._tell_end(document["_id"], status, reason, vendor, request_id, facts)

    # What is said ------------------------------------------------------------------------------

    def _tell_end(
        self,
        email_id: ObjectId,
        status: Status,
        reason: str | None,
        vendor: str | None,
        request_id: str | None,
        more: Mapping[str, object],
    ) -> None:
        facts: dict[str, object] = {"id": str(email_id)}
        if reason is not None:
            facts["reason"] = str(reason)
        if vendor is not None:
            facts["vendor"] = vendor
        facts |= more
        if request_id is not None:
            facts["request_id"] = request_id
        match status:
            case Status.SENT:
                event(logger, logging.INFO, "email.sent", **facts)
            case Status.CANCELLED:
                event(logger, logging.INFO, "email.cancelled", **facts)
            case Status.FAILED:
                event(logger, logging.WARNING, "email.failed", **facts)
            case _:
                event(logger, logging.WARNING, "email.uncertain", **facts)
        self._hear(email_id, status, reason, vendor, request_id)

    def _hear(
        self,
        email_id: ObjectId,
        status: Status,
        reason: str | None,
        vendor: str | None,
        request_id: str | None,
    ) -> None:
        if self.listener is not None:
            end = EmailEnd(
                event=f"email.{status}",
                id=str(email_id),
                status=status,
                reason=reason,
                vendor=vendor,
                request_id=request_id,
                at=datetime.now(UTC),
            )
            self.listener(end)

    def _tell_failure(self, change: Change, end: Status | None) -> None:
        """``end``: what became of the e-mail, if that is not what was decided."""
        result, decision = change.result, change.decision
        facts: dict[str, object] = {"id": str(change.id)}
        if change.vendor is not None:
            facts["vendor"] = change.vendor
        if result is not None:
            facts |= {"outcome": str(result.outcome), "code": result.code}
        facts |= {"next": end or _next(decision), "seconds": round(decision.delay, 1)}
        if change.seconds is not None:
            facts["ms"] = _ms(change.seconds)
        if change.request_id is not None:
            facts["request_id"] = change.request_id
        event(logger, logging.INFO, "attempt.failed", **facts)

    def _read(
        self, ids: Collection[ObjectId], fields: Sequence[str]
    ) -> dict[ObjectId, dict[str, Any]]:
        """The documents; of one that cannot be decoded as much as can be."""
        if not ids:
            return {}
        match, shown = {"_id": {"$in": list(ids)}}, dict.fromkeys(fields, 1)
        try:
            with self._mongo.operation():
                return {d["_id"]: d for d in self._emails.find(match, shown)}
        except StoreUnavailable:
            return {}
        except BSONError:
            if len(ids) > 1:
                return {i: d for each in ids for i, d in self._read([each], fields).items()}
            return {} if fields == FIELDS[:2] else self._read(ids, FIELDS[:2])


def _name(change: Change | Aside) -> tuple[ObjectId, int]:
    """Which transition of which e-mail it is."""
    return change.id, change.token if isinstance(change, Change) else -1


def _is_yes(change: Change) -> bool:
    return change.result is not None and change.result.outcome is Outcome.ACCEPTED


def _facts_of_sent(change: Change) -> dict[str, object]:
    facts: dict[str, object] = {"id": str(change.id), "vendor": change.vendor}
    if change.seconds is not None:
        facts["ms"] = _ms(change.seconds)
    if change.decision.refused:
        facts["refused"] = len(change.decision.refused)
    if change.request_id is not None:
        facts["request_id"] = change.request_id
    return facts


def _ms(seconds: float) -> float:
    """Milliseconds with one digit; ``round`` takes five times as long."""
    return int(seconds * 10_000 + 0.5) / 10


def _next(decision: Decision) -> str:
    """What comes after an attempt: an end, or who is asked next."""
    if decision.status is not Status.QUEUED:
        return str(decision.status)
    if decision.pin is not None:
        return "same_vendor"
    return "other_vendor" if decision.round.tried else "new_round"


def _text(value: object) -> str | None:
    """What stands in a document may be anything."""
    return value if isinstance(value, str) else None

"""Storing vendors' events: once each, then what they change in the e-mails.

Decides: which e-mail an event is about (by our id, else by the vendor's), which recipient, what of
it enters the suppression list, and that the events of concurrent requests are written together.

Assumes: events were verified. Their order means nothing, and any of them may come again.

Promises: when ``record`` returns, a majority has the events in its journal, and what follows from
them is written. Everything may be written twice: events by their keys, and e-mails by the rules of
``store.deliveries``. So a request that failed, or whose process died, is simply repeated by its
vendor. An event of an e-mail that is not there, or not there any more, is stored all the same.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, TypeAlias

from bson import ObjectId
from pymongo.errors import BulkWriteError

from mailqueue import logs
from mailqueue.config import Config
from mailqueue.errors import InvalidEmail, StoreUnavailable
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Address, Email
from mailqueue.producer.group_commit import CommitTimeout, GroupCommit
from mailqueue.store import deliveries, ids
from mailqueue.store.document import Stored
from mailqueue.store.mongo import DUPLICATE, readable, write_errors
from mailqueue.store.store import Store
from mailqueue.store.suppressions import Report, Suppressions, entry_of
from mailqueue.store.transitions import Write
from mailqueue.vendors.events.source import EventType, VendorEvent

logger = logging.getLogger(__name__)

VENDOR_ID = "attempts.message_id"
MAX_AHEAD = timedelta(days=1)  # a vendor's clock that is further ahead is not believed
MAX_BEHIND = timedelta(days=1)  # nor one that is further behind
_NO_YES = (EventType.REJECTED, EventType.FAILED, EventType.UNKNOWN)
_STATES = frozenset((*deliveries.STEPS, *deliveries.MARKS))
_UNDECIDED = (None, Outcome.UNKNOWN)
# Of an e-mail, what tells which recipient and which attempt an event is about.
_FIELDS = ("status", "request_id", "attempts.token", "attempts.vendor", "attempts.outcome")
_INCARNATION = ("nonce", "lease.token", "attempts.started_at")  # and whether it is meant at all
_PEOPLE = ("email.from", "email.to", "email.cc", "email.bcc", "email.envelope")


@dataclass(frozen=True, slots=True)
class _Item:
    """An event of a vendor (by its name), on its way into the store."""

    vendor: str
    event: VendorEvent
    received_at: datetime
    document: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Email:
    """The e-mail that an event is about."""

    id: ObjectId
    lines: Sequence[Mapping[str, Any]]
    incarnation: ObjectId | None
    request_id: str | None
    recipients: Sequence[tuple[str, str]] = field(repr=False)  # in lower case; the second in ASCII

    def is_meant(self, item: _Item) -> bool:
        """Whether the event's vendor was asked to send it, and not an earlier one with its id.

        Only an id that follows from a key comes again.
        """
        starts = [
            line.get("started_at") for line in self.lines if line.get("vendor") == item.vendor
        ]
        if self.incarnation is None:
            return bool(starts)
        latest = item.document["at"] + MAX_BEHIND
        return any(isinstance(start, datetime) and start <= latest for start in starts)

    def recipient(self, address: str | None) -> int | None:
        """Its place among the recipients; without an address only a single one is meant."""
        if address is None:
            return 0 if len(self.recipients) == 1 else None
        form = _without_name(address) if address[-1:] == ">" else address.lower()
        return next((i for i, forms in enumerate(self.recipients) if form in forms), None)

    def undecided_token(self, vendor: str) -> int | None:
        """That of an attempt at this vendor of which nobody knows what became.

        None also if it has accepted the e-mail since: the event is of that copy. The oldest one: a
        later one that is under way may yet turn out refused, and the event would prove nothing.
        """
        oldest = None
        for line in self.lines:
            if line.get("vendor") != vendor:
                continue
            if line.get("outcome") == Outcome.ACCEPTED:
                oldest = None
            elif oldest is None and line.get("outcome") in _UNDECIDED:
                oldest = token if isinstance(token := line.get("token"), int) else None
        return oldest


_Emails: TypeAlias = Mapping[ObjectId, _Email]


class EventStore:
    """The events of all vendors of one installation. Any thread may call.

    ``store``: the e-mails that events are about, of one kind (``env``). ``by_vendor_id``: some
    vendor's events have nothing but its own id (``EventSource.lacks_our_id``).
    """

    def __init__(self, config: Config, store: Store, *, by_vendor_id: bool = False) -> None:
        self._store = store
        self._events = readable(store.collection(".events"))
        self._emails = readable(store.emails)
        self._kept_for = timedelta(days=config.retention.sent_days)
        self._by_vendor_id = by_vendor_id
        self._suppressions = Suppressions.of(store, config.suppression)
        self._vendor_lists = config.suppression is not None and config.suppression.vendor_lists
        self._commit: GroupCommit[list[_Item], _Emails] = GroupCommit(self._write)

    def ensure_indexes(self) -> None:
        """Create the indexes that are missing. Raises ``StoreUnavailable``.

        One finds the events of an e-mail, one lets MongoDB remove old events. The e-mails get one
        only where a vendor's events have nothing but its own id.
        """
        with self._store.operation():
            self._events.create_index("email_id")
            self._events.create_index("until", expireAfterSeconds=0)
            if self._by_vendor_id:
                partial = {VENDOR_ID: {"$exists": True}}
                self._store.emails.create_index(VENDOR_ID, partialFilterExpression=partial)

    def record(self, vendor: str, events: Sequence[VendorEvent]) -> None:
        """Store events of the vendor with this name, durably, and what follows from them.

        Raises ``StoreUnavailable`` within ``mongodb.timeout``: nothing is known of any of them, and
        storing them again is safe.
        """
        if not events:
            return
        now = datetime.now(UTC)
        items = [_Item(vendor, each, now, self._document(vendor, each, now)) for each in events]
        try:
            emails = self._commit.submit(items, self._store.timeout, sum(map(_size, events)))
        except CommitTimeout:
            raise StoreUnavailable("MongoDB: no answer in time") from None
        _log(vendor, items, emails)

    def of_email(self, email_id: ObjectId, limit: int = 100) -> list[dict[str, Any]]:
        """The newest events of an e-mail, as they are stored, the oldest of them first."""
        with self._store.operation():
            newest = self._events.find({"email_id": email_id}).sort("received_at", -1).limit(limit)
            return list(newest)[::-1]

    def tally(self, email_id: ObjectId) -> dict[str, dict[str, Any]]:
        """By type, how many events an e-mail has had (``n``), and the ``first`` and ``last`` time.

        Opens and clicks have no bound: they are counted here, and not kept in the e-mail.
        """
        counts = {"n": {"$sum": 1}, "first": {"$min": "$at"}, "last": {"$max": "$at"}}
        group = {"$group": {"_id": "$type", **counts}}
        steps: list[dict[str, Any]] = [{"$match": {"email_id": email_id}}, group]
        with self._store.operation():
            groups = list(self._events.aggregate(steps))
        return {each.pop("_id"): each for each in sorted(groups, key=lambda each: each["_id"])}

    # Writing -----------------------------------------------------------------------------------

    def _document(self, vendor: str, event: VendorEvent, now: datetime) -> dict[str, Any]:
        name = sha256(f"{vendor}\0{event.key}".encode("utf-8", "replace")).hexdigest()[:32]
        at = now if event.at is None or event.at > now + MAX_AHEAD else event.at
        return {
            "_id": name,
            "email_id": _our_id(event.email_id),
            "vendor": vendor,
            "type": event.type.value,
            "at": at,
            "received_at": now,
            "until": now + self._kept_for,
            "recipient": _printable(event.recipient),
            "message_id": _printable(event.message_id),
            "code": _printable(event.code),
            "detail": _printable(event.detail),
        }

    def _write(self, batch: list[list[_Item]]) -> list[_Emails]:
        """Store the events of several requests, then what they change; returns their e-mails."""
        items = [item for request in batch for item in request]
        with self._store.operation():
            emails = self._find(items)
            _spell_as_ours(items, emails)
            if self._suppressions is not None:
                self._suppress(self._suppressions, items)
            self._insert(items)
            self._change(items, emails)
        return [emails] * len(batch)

    def _suppress(self, suppressions: Suppressions, items: Iterable[_Item]) -> None:
        """Enter who is to get no more e-mail, and take back what their vendor reported before.

        It comes before the events are stored. So an event that is stored already has done this, and
        a copy of it must not do it again: its vendor may have taken it back since.
        """
        marks = {
            item.document["_id"]: item
            for item in items
            if item.event.lift
            or (item.event.suppress and (self._vendor_lists or not item.event.by_vendor_list))
        }
        if not marks:
            return
        stored = self._events.find({"_id": {"$in": list(marks)}}, {"_id": 1})
        copies = {document["_id"] for document in stored}
        new = [item for name, item in marks.items() if name not in copies]
        reports = [report for item in new if (report := _report(item)) is not None]
        suppressions.add(reports)
        for source, number in Counter(report.source for report in reports).items():
            logs.event(logger, logging.INFO, "suppression.added", vendor=source, entries=number)
        # After the reports: each takes back what was reported until then, in whatever order they
        # came.
        for item in new:
            if item.event.lift and (entry := _entry(item)) is not None:
                suppressions.lift(item.vendor, [entry], item.document["at"])

    def _insert(self, items: Iterable[_Item]) -> None:
        """Each event once: one that is there already stays as it is."""
        documents = list({item.document["_id"]: item.document for item in items}.values())
        self._store.persist(lambda: self._insert_once(documents))

    def _insert_once(self, documents: Sequence[dict[str, Any]]) -> None:
        try:
            self._events.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            codes = {each.get("code") for each in write_errors(error)}
            if codes != {DUPLICATE} or error.details.get("writeConcernErrors"):
                raise

    def _find(self, items: Sequence[_Item]) -> dict[ObjectId, _Email]:
        """The e-mails that these events are about; completes ``email_id`` by the vendor's ids."""
        by_vendor_id = self._ids_of(
            {
                item.event.message_id
                for item in items
                if item.document["email_id"] is None and item.event.message_id
            }
        )
        for item in items:
            if item.document["email_id"] is None:
                key = item.vendor, item.event.message_id
                item.document["email_id"] = by_vendor_id.get(key)
        chosen = {item.document["email_id"] for item in items} - {None}
        fields = dict.fromkeys((*_FIELDS, *_INCARNATION, *_PEOPLE), 1)
        cursor = self._emails.find({"_id": {"$in": list(chosen)}}, fields) if chosen else ()
        return {each["_id"]: _email(each) for each in cursor}

    def _ids_of(self, message_ids: set[str]) -> dict[tuple[str, str | None], ObjectId]:
        """Our ids by vendor and the vendor's own id, for events that brought nothing of ours."""
        if not message_ids or not self._by_vendor_id:
            return {}
        match = {VENDOR_ID: {"$in": list(message_ids)}}
        fields = {"attempts.vendor": 1, VENDOR_ID: 1}
        return {
            (line.get("vendor", ""), line.get("message_id")): each["_id"]
            for each in self._emails.find(match, fields)
            for line in each["attempts"]
        }

    def _change(self, items: Sequence[_Item], emails: _Emails) -> None:
        """Write what events change, in steps: each is stored before the next one begins."""
        opened: list[Write] = []
        yeses: dict[tuple[ObjectId, int], Write] = {}
        alike: dict[tuple[str, int, str], set[ObjectId]] = defaultdict(set)
        for item in items:
            email = emails.get(item.document["email_id"])
            if email is None or not email.is_meant(item):
                continue
            event = item.event
            place = email.recipient(event.recipient)
            if place is not None and event.type in _STATES:
                alike[item.vendor, place, event.type].add(email.id)
            token = email.undecided_token(item.vendor)
            if token is not None and _proves_yes(event, email):
                name, own = event.message_id, email.incarnation
                opened.append(deliveries.open_attempt_write(email.id, token, name, incarnation=own))
                yeses.setdefault((email.id, token), self._yes_write(item, email, token))
        self._store.bulk.write(opened, self._store.timeout)
        writes = list(yeses.values())
        matched, _, is_repeated = self._store.bulk.write_counted(writes, self._store.timeout)
        if matched or is_repeated:
            self._store.ends.tell_late_yeses(yeses)
        writes = [
            (
                deliveries.delivery_filter(list(own), vendor),
                deliveries.delivery_update(place, word, self._store.noting),
            )
            for (vendor, place, word), own in alike.items()
        ]
        self._store.bulk.write(writes, self._store.timeout)

    def _yes_write(self, item: _Item, email: _Email, token: int) -> Write:
        guard, yes = deliveries.unknown_attempt_write(
            email.id,
            token,
            item.vendor,
            item.event.message_id,
            simulated=self._store.env == "simulated",
            incarnation=email.incarnation,
        )
        return guard, self._store.noting.with_end(yes)


def _log(vendor: str, items: Iterable[_Item], emails: _Emails) -> None:
    """A line for each e-mail: how many events of each type; without an id for no e-mail of ours."""
    kinds: dict[ObjectId | None, Counter[str]] = defaultdict(Counter)
    for item in items:
        kinds[item.document["email_id"]][str(item.event.type)] += 1
    for email_id, types in kinds.items():
        facts: dict[str, object] = {"vendor": vendor, **types}
        if email_id is not None:
            facts = {"id": str(email_id), **facts}
            if (email := emails.get(email_id)) is not None and email.request_id is not None:
                facts["request_id"] = email.request_id
        logs.event(logger, logging.INFO, "events.stored", **facts)


def _proves_yes(event: VendorEvent, email: _Email) -> bool:
    """Whether the vendor has taken the e-mail for all its recipients.

    An e-mail with the same id before, of the same key, may be opened even now.
    """
    if email.incarnation is not None and event.type in deliveries.MARKS:
        return False
    for_all = not event.proves_one or len(email.recipients) == 1
    return for_all and event.email_id is not None and event.type not in _NO_YES


def _email(document: Mapping[str, Any]) -> _Email:
    lines, stored = document.get("attempts"), Stored(document, datetime.now(UTC))
    return _Email(
        document["_id"],
        [line for line in lines if isinstance(line, dict)] if isinstance(lines, list) else [],
        stored.incarnation,
        stored.request_id,
        _recipients(document.get("email")),
    )


def _recipients(email: Any) -> list[tuple[str, str]]:
    """The recipients of an e-mail in their order, each in the forms that vendors use."""
    try:
        people = Email.from_document({"text": "", **email}).recipients
    except (LookupError, TypeError, ValueError, AttributeError):  # a damaged document
        return []
    return [(person.address.lower(), person.ascii.lower()) for person in people]


def _spell_as_ours(items: Iterable[_Item], emails: Mapping[ObjectId, _Email]) -> None:
    """Store a recipient as the e-mail has it, by which callbacks find the event."""
    for item in items:
        email, address = emails.get(item.document["email_id"]), item.event.recipient
        place = email.recipient(address) if email is not None and address is not None else None
        if email is not None and place is not None:
            item.document["recipient"] = email.recipients[place][0]


def _without_name(text: str) -> str:
    """The address alone; some events repeat what a header had: ``Bob <bob@example.org>``."""
    try:
        return Address.parse(text).address.lower()
    except (InvalidEmail, UnicodeError):
        return ""


def _report(item: _Item) -> Report | None:
    entry = None if item.event.suppress is None else _entry(item)
    if entry is None or item.event.suppress is None:
        return None
    return Report(entry, item.event.suppress, item.vendor, item.document["at"])


def _entry(item: _Item) -> str | None:
    """Whom it concerns, as the suppression list has them; None: it does not say."""
    try:
        return entry_of(item.event.recipient or "")
    except (InvalidEmail, UnicodeError):  # a vendor may send any text
        return None


def _our_id(text: str | None) -> ObjectId | None:
    try:
        return None if text is None else ids.parse(text)
    except ValueError:
        return None


def _printable(text: str | None) -> str | None:
    """What MongoDB can hold: no lone surrogates, and no more than it is worth."""
    return None if text is None else text[:1000].encode("utf-8", "replace").decode()


def _size(event: VendorEvent) -> int:
    return 300 + len(event.detail)

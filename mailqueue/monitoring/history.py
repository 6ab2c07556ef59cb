"""What happened to an e-mail, in sentences, as its document proves it. Pure.

Decides: which sentences, and their order: that of the server's times; of an event, the vendor's.

Assumes: a line of the ledger tells which vendor was asked, and which others were unavailable then
(none of an older version does). It does not tell which were drained, or busy. So of these only what
is still to be seen is told: what they refused before, and what has lasted since. "Whose turn it
was" is meant among the vendors that could take an e-mail then.

Promises: any document can be told of; what is damaged in it is left out. No address, subject or
body; a vendor's words only where they are asked for (``content``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from mailqueue.lifecycle.outcomes import PRIORITIES, Outcome, Reason, Status
from mailqueue.monitoring import wording
from mailqueue.monitoring.conditions import Conditions
from mailqueue.monitoring.sentence import Sentence
from mailqueue.monitoring.words import clock, count, is_word, listed, span
from mailqueue.store.callbacks import DUE
from mailqueue.store.document import SIMULATED, Document, Stored
from mailqueue.store.interventions import Verb

_PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}
FAILURES = (Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.MISCONFIGURED, Outcome.UNKNOWN)
AT_ONCE = timedelta(seconds=5)
SLOW = 1.0  # seconds from which it is said how long an attempt took
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class History:
    """One e-mail's past. ``vendors``: the names of those that are configured."""

    stored: Stored
    vendors: Sequence[str]
    conditions: Conditions
    events: Sequence[Document] = field(default=(), repr=False)
    content: bool = False

    @property
    def document(self) -> Document:
        """As it is stored."""
        return self.stored.document

    def sentences(self) -> list[Sentence]:
        """All that happened, the oldest first."""
        dated = [
            *self._attempts(),
            *self._interventions(),
            *self._end(),
            *self._removals(),
            *self._events(),
            *self._callbacks(),
        ]
        # What has no time belongs to what stands before it. The producer's clock may be wrong, so
        # that its sentence is not sorted among those of the server.
        at, keys = _EARLIEST, []
        for sentence in dated:
            at = sentence.at or at
            keys.append(at)
        order = sorted(range(len(dated)), key=keys.__getitem__)
        return [self._beginning(), *(dated[i] for i in order)]

    def _clock(self, at: datetime) -> str:
        return clock(at, self.stored.now)

    # The beginning -------------------------------------------------------------------------------

    def _beginning(self) -> Sentence:
        document = self.document
        parts = ["The application handed it in"]
        name = _PRIORITY_NAMES.get(natural(document.get("priority")), "normal")
        if name != "normal":
            parts.append(f"with the priority {name}")
        if send_at := as_time(document.get("send_at")):
            parts.append(f"to be sent at {self._clock(send_at)}")
        if expires_at := as_time(document.get("expires_at")):
            parts.append(f"not to be sent after {self._clock(expires_at)}")
        text = ", ".join(parts) + "."
        if route := texts(document.get("route")):
            text += f" Its route is {listed(route, 'or')}."
        if document.get("env") == SIMULATED:
            text += " That was outside production: a simulated e-mail calls no vendor."
        return Sentence(text, as_time(document.get("created_at")))

    # Attempts ------------------------------------------------------------------------------------

    def _attempts(self) -> Iterator[Sentence]:
        lines = objects(self.document.get("attempts"))
        if lines and (first := natural(lines[0].get("n"))) > 1:
            yield Sentence(f"The ledger keeps no line of {count(first - 1, 'earlier attempt')}.")
        none_before: Mapping[str, Any] = {}
        for before, line in pairwise([none_before, *lines]):
            choice = self._choice(line, before)
            if line.get("redirected") is True:
                choice += f" {wording.REDIRECTED}"
            yield Sentence(choice, as_time(line.get("started_at")))
            yield Sentence(self._outcome(line), as_time(line.get("ended_at")))

    def _choice(self, line: Mapping[str, Any], before: Mapping[str, Any]) -> str:
        """Which vendor was to be asked, and why that one."""
        vendor = _vendor(line)
        attempt = f"Attempt {natural(line.get('n'))} at {vendor}"
        if _is_repeat(line, before):
            why = "a vendor that still knows the key makes no second copy."
            return f"{attempt}, again under the same key: {why}"
        if line.get("probe") is True:
            attempt += (
                ", as its probe: one e-mail finds out whether an unavailable vendor works again."
            )
            return " ".join([attempt, *self._others(line, before)])
        if texts(self.document.get("route")) == [vendor]:
            return f"{attempt}: its route has no other vendor."
        if self.vendors == [vendor]:
            return f"{attempt}: no other vendor is configured now."
        return " ".join([f"{attempt}, whose turn it was.", *self._others(line, before)])

    def _others(self, line: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
        """Of the other vendors, what is known of the time of this attempt."""
        start, vendor = as_time(line.get("started_at")), _vendor(line)
        if start is None:
            return
        refusals, unavailable = self._unsuitable_before(line), texts(line.get("unavailable"))
        route = texts(self.document.get("route")) or self.vendors
        for name in (n for n in self.vendors if n != vendor and n in route):
            drain = self.conditions.controls.active.get(f"drain:{name}")
            health = self.conditions.health.get(name)
            if name in refusals:
                yield f"{name} had found it unsuitable."
            elif drain is not None and drain.at is not None and drain.at <= start:
                yield f"{name} was drained since {self._clock(drain.at)}."
            elif name in unavailable:
                yield f"{name} was unavailable."
            elif health and health.since is not None and health.since <= start.timestamp():
                since = datetime.fromtimestamp(health.since, UTC)
                yield f"{name} was unavailable since {self._clock(since)}."
            elif name == _vendor(before) and _was_just_asked(before, start):
                yield f"{name} had just been asked."

    def _unsuitable_before(self, line: Mapping[str, Any]) -> set[str]:
        """The vendors that were not asked any more: a retry by hand asks them again."""
        retries = [
            as_time(each.get("at")) or _EARLIEST
            for each in objects(self.document.get("interventions"))
            if each.get("verb") == Verb.RETRY
        ]
        start = as_time(line.get("started_at")) or _EARLIEST
        since = max((at for at in retries if at <= start), default=_EARLIEST)
        return {
            _vendor(each)
            for each in objects(self.document.get("attempts"))
            if each.get("outcome") == Outcome.UNSUITABLE
            and since <= (as_time(each.get("ended_at")) or _EARLIEST) <= start
        }

    def _outcome(self, line: Mapping[str, Any]) -> str:
        vendor, outcome, late = _vendor(line), line.get("outcome"), line.get("late") is True
        outcome = outcome if outcome is None else str(outcome)
        flags = {"late": late, "event": isinstance(line.get("event"), Mapping)}
        parts = [wording.outcome_text(outcome, vendor, text(line.get("code")), **flags)]
        start, end = as_time(line.get("started_at")), as_time(line.get("ended_at"))
        seconds = (end - start).total_seconds() if start and end else 0.0
        if seconds >= SLOW and not late and outcome in list(Outcome):
            parts.append(f"That took {span(seconds)}.")
        parts += self._recipients(line)
        if line.get("extra_copy") is True:
            parts.append(wording.EXTRA_COPY)
        if line.get("looked_up") is True:
            parts.append(wording.LOOKED_UP.format(vendor=vendor))
        if self.content and (detail := text(line.get("detail"))):
            parts.append(f"Its words: {detail}")
        return " ".join(parts)

    @staticmethod
    def _recipients(line: Mapping[str, Any]) -> Iterator[str]:
        forms = {
            "refused": "refused for good",
            "pending": "put off",
            "suppressed": "left out (suppressed, or not allowed by staging)",
        }
        for name, form in forms.items():
            if number := natural(line.get(f"{name}_count")) or len(texts(line.get(name))):
                yield f"{count(number, 'recipient was', 'recipients were')} {form}."

    # What else was done --------------------------------------------------------------------------

    def _interventions(self) -> Iterator[Sentence]:
        forms: Mapping[str, str] = {
            Verb.RETRY: "had it tried again: its clocks, its round and its count began anew",
            Verb.MARK_SENT: "recorded that it was sent",
            Verb.CANCEL: "cancelled it",
        }
        for each in objects(self.document.get("interventions")):
            if (form := forms.get(text(each.get("verb")))) is None:
                continue
            reason = f" ({reason})" if (reason := text(each.get("reason"))) else ""
            was = f" Before, it was {text(each.get('was'))}{reason}." if each.get("was") else ""
            who = text(each.get("by")) or "A person"
            yield Sentence(f"{who} {form}.{was}", as_time(each.get("at")))

    def _end(self) -> Iterator[Sentence]:
        """Its end, where a vendor's yes has not told it already."""
        status, reason = status_of(self.document), reason_of(self.document)
        if status is None or not status.final:
            if isinstance(yes := self.document.get("late_accept"), Mapping):
                words = f"A yes of {_vendor(yes)} for an earlier attempt was heard meanwhile. "
                words += "It makes the e-mail sent when this attempt ends."
                yield Sentence(words, as_time(yes.get("at")))
            return
        if reason in (None, Reason.MARKED_SENT):
            return
        words = f"It ended as {status} (reason: {reason})."
        if status is Status.UNCERTAIN and reason not in (Reason.UNKNOWN, Reason.UNREADABLE):
            words += " A copy may have left before, so nobody calls it failed or cancelled."
        yield Sentence(words, as_time(self.document.get("updated_at")))

    def _removals(self) -> Iterator[Sentence]:
        forms = {
            "content_dropped_at": "Its bodies and files were removed.",
            "forgotten_at": "A person was forgotten: the address was removed, and what it said.",
        }
        for name, form in forms.items():
            if at := as_time(self.document.get(name)):
                yield Sentence(form, at)

    # Afterwards ----------------------------------------------------------------------------------

    def _events(self) -> Iterator[Sentence]:
        """What vendors told since, each kind once."""
        kinds: dict[tuple[str, str, str], list[Document]] = {}
        for each in self.events:
            kind = (_vendor(each), text(each.get("type")), text(each.get("code")))
            kinds.setdefault(kind, []).append(each)
        for (vendor, type_, code), events in kinds.items():
            words = wording.EVENTS.get(type_, wording.EVENTS["unknown"])
            words += f" ({code})" if code and (self.content or is_word(code)) else ""
            words += f", {len(events)} times" if len(events) > 1 else ""
            yield Sentence(f"{vendor} reports: {words}.", as_time(events[0].get("at")))

    def _callbacks(self) -> Iterator[Sentence]:
        for each in objects(self.document.get("callbacks")):
            state = text(each.get("state"))
            if state != DUE and state in wording.CALLBACKS:
                yield Sentence(callback_text(each), as_time(each.get("ended_at")))


def callback_text(entry: Mapping[str, Any]) -> str:
    """Whether the application was told of this."""
    code, tries = text(entry.get("code")), natural(entry.get("tries"))
    return wording.CALLBACKS[text(entry.get("state"))].format(
        type=text(entry.get("type")) or "its end",
        code=f" ({code})" if code else "",
        tries=f", after {count(tries, 'try', 'tries')}" if tries else "",
    )


def _vendor(line: Mapping[str, Any]) -> str:
    return text(line.get("vendor")) or "a vendor"


def _was_just_asked(line: Mapping[str, Any], start: datetime) -> bool:
    """Whether its vendor failed just before ``start``: inside a round the next follows at once."""
    end = as_time(line.get("ended_at"))
    just = end is not None and start - end < AT_ONCE
    return just and line.get("outcome") in FAILURES


def _is_repeat(line: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether the outcome before was unknown, and the same vendor got the same key."""
    same = all(line.get(name) == before.get(name) is not None for name in ("vendor", "key"))
    return same and before.get("outcome") == Outcome.UNKNOWN


# The types of what is read: what is damaged counts as not there -----------------------------------


def status_of(document: Document) -> Status | None:
    """Its status; None: it cannot be read."""
    value = document.get("status")
    return Status(value) if isinstance(value, str) and value in list(Status) else None


def reason_of(document: Document) -> Reason | None:
    """Why it ended without a vendor's yes; None: there is no reason that this version knows."""
    value = document.get("reason")
    return Reason(value) if isinstance(value, str) and value in list(Reason) else None


def last_verb(document: Document) -> Verb | None:
    """What a person did last with it; None: nothing."""
    verbs = [each.get("verb") for each in objects(document.get("interventions"))]
    return Verb(verbs[-1]) if verbs and verbs[-1] in list(Verb) else None


def as_time(value: Any) -> datetime | None:
    """A time."""
    return value if isinstance(value, datetime) else None


def text(value: Any) -> str:
    """A text, or an empty one."""
    return value if type(value) is str else ""


def texts(value: Any) -> list[str]:
    """The texts in a list."""
    return [each for each in value if type(each) is str] if isinstance(value, list) else []


def natural(value: Any) -> int:
    """A number of things."""
    return value if type(value) is int and value > 0 else 0


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []

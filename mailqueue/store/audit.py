"""Whether every e-mail is in a legal state: the promise, held against what is stored. Pure.

Decides: what is legal. ``problems`` looks at one document, ``walk`` at all of them in order of
``_id``, a page at a time.

Assumes: a document that was read in one piece, with the server's time of the reading. The ledger
keeps the newest 50 lines; nothing is demanded of older ones.

Promises: nothing is changed, and no finding holds an address, a subject or a body.
Copies accepted, per recipient, are at most 1 + unknown outcomes that were resent + a person's
retries of uncertain e-mails. Repeats under one key at one vendor are one copy, and a yes after one
that left recipients out belongs to the same copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mailqueue.errors import Unreadable
from mailqueue.lifecycle.outcomes import Outcome, Reason, Status
from mailqueue.store import ledger, schema
from mailqueue.store.document import CLOCK_TOKEN, SIMULATED, Document, Stored
from mailqueue.store.interventions import Verb
from mailqueue.store.ledger import NOT_STARTED

if TYPE_CHECKING:
    from mailqueue.store.store import Store

GRACE = 300.0
PAGE = 500
LISTED = 100
_CANCELLED = frozenset({Reason.CANCELLED, Reason.NOT_ALLOWED})
_FAILED = frozenset(Reason) - {Reason.UNKNOWN, Reason.MARKED_SENT} - _CANCELLED
_UNCERTAIN = frozenset(Reason) - {Reason.MARKED_SENT}

Line = Mapping[str, Any]


def problems(stored: Stored, grace: float = GRACE) -> list[str]:
    """What is wrong with an e-mail; ``grace``: seconds that the sweeper has to mend it."""
    if invalid_fields := list(schema.problems(stored.document)):
        return invalid_fields
    return [
        *_check_ledger(stored.document),
        *_check_lease(stored, grace),
        *_check_outcomes(stored.document),
        *_check_copies(stored.document),
        *_check_status(stored, grace),
    ]


# The ledger ---------------------------------------------------------------------------------------


def _is_cut(lines: Sequence[Line]) -> bool:
    """Whether older lines were dropped."""
    short = len(lines) == ledger.LENGTH or (lines and lines[0].get("cut"))
    return bool(short) and lines[0]["n"] > 1


def _check_ledger(document: Document) -> Iterator[str]:
    lines: Sequence[Line] = document["attempts"]
    first = lines[0]["n"] if _is_cut(lines) else 1
    if [line["n"] for line in lines] != list(range(first, first + len(lines))):
        yield "the ledger's lines are not numbered one after the other"
    if len(lines) > ledger.LENGTH:
        yield f"the ledger has more than {ledger.LENGTH} lines"
    if any(before["token"] >= after["token"] for before, after in pairwise(lines)):
        yield "the ledger's tokens do not increase"
    # With another time than at first it has a higher token, and no claim yet. Where the first token
    # is of the clock, nothing tells how many there were.
    token = document["lease"]["token"]
    unclaimed = not lines and (document.get("send_at") is not None or token >= CLOCK_TOKEN)
    if not unclaimed and (lines[-1]["token"] if lines else 0) != token:
        yield "the newest claim has no line in the ledger"
    for line in lines:
        yield from _check_line(line, document)


def _check_line(line: Line, document: Document) -> Iterator[str]:
    if line["outcome"] is None:
        holds = document["status"] == Status.SENDING
        if not holds or line["token"] != document["lease"]["token"]:
            yield f"attempt {line['n']} has no outcome, but its lease is not held"
        if line["ended_at"] is not None:
            yield f"attempt {line['n']} has an end, but no outcome"
    elif line["ended_at"] is None:
        yield f"attempt {line['n']} has an outcome, but no end"
    elif line["ended_at"] < line["started_at"]:
        yield f"attempt {line['n']} ended before it began"


def _check_lease(stored: Stored, grace: float) -> Iterator[str]:
    document = stored.document
    lease = document["lease"]
    if stored.status is not Status.SENDING:
        if set(lease) != {"token"}:
            yield "a lease is held, but nothing is being sent"
        return
    if not {"owner", "nonce", "until"} <= set(lease):
        yield "it is being sent, but no lease is held"
        return
    unanswered = any(line["outcome"] is None for line in document["attempts"])
    if not unanswered and document.get("late_accept") is None:
        yield "it is being sent, but every attempt has an outcome"
    try:
        if stored.leased_for < -grace:
            yield f"its lease expired {-stored.leased_for:.0f} s ago and was not rescued"
    except Unreadable:
        yield "its lease lasts for more than a day"


# What is known, and what is not -------------------------------------------------------------------


def _accepted_lines(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line["outcome"] == Outcome.ACCEPTED]


def _unknown_lines(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line["outcome"] == Outcome.UNKNOWN]


def _was_unknown(line: Line) -> bool:
    """Unknown, or unknown until a late yes came."""
    return bool(line["outcome"] == Outcome.UNKNOWN or line.get("late"))


def _retries(document: Document) -> list[Mapping[str, Any]]:
    """A person's retries of the e-mail while it was uncertain."""
    return [
        entry
        for entry in document.get("interventions") or ()
        if entry["verb"] == Verb.RETRY and entry["was"] == Status.UNCERTAIN
    ]


def _check_outcomes(document: Document) -> Iterator[str]:
    """The counters against the ledger."""
    lines, unknowns = document["attempts"], document["unknowns"]
    # With a key it is repeated under the same key, and counted only when that has failed.
    unkeyed = sum(line.get("key") is None for line in _unknown_lines(lines))
    if unknowns < unkeyed:
        yield f"{unkeyed} outcomes are unknown, but {unknowns} are counted"
    is_counted = unknowns or document.get("pin") is not None or document["status"] == Status.SENT
    if _unknown_lines(lines) and not is_counted:
        yield "an unknown outcome is not counted"
    if _is_cut(lines):
        return
    if unknowns > sum(map(_was_unknown, lines)):
        yield f"{unknowns} unknown outcomes are counted, but the ledger has fewer"
    if document["counted"] > sum(line["outcome"] not in (None, NOT_STARTED) for line in lines):
        yield "more attempts are counted than the ledger has"


def _resent_lines(document: Document) -> list[Line]:
    """The lines with an unknown outcome, if the next attempt was made without a person's retry."""
    started = [line for line in document["attempts"] if line["outcome"] != NOT_STARTED]
    retry_tokens = [entry["token"] for entry in _retries(document)]
    return [
        line
        for line, following in pairwise(started)
        if _was_unknown(line)
        and not any(line["token"] <= token < following["token"] for token in retry_tokens)
    ]


def _number_of_copies(lines: Sequence[Line]) -> int:
    """Of these accepted lines: a repeat under one key, or of a part, is no further copy."""
    copies, identities, partial = 0, set[tuple[str, str]](), False
    for line in lines:
        same = (line["vendor"], line.get("key") or str(line["n"]))
        copies += not partial and same not in identities
        identities.add(same)
        partial = bool(line.get("pending"))
    return copies


def _check_copies(document: Document) -> Iterator[str]:
    lines = document["attempts"]
    copies, retries = _number_of_copies(_accepted_lines(lines)), len(_retries(document))
    resent = _resent_lines(document)
    if sum(line.get("key") is None for line in resent) > 1:
        yield "it was sent again after an unknown outcome more than once"
    if not _is_cut(lines) and copies > 1 + len(resent) + retries:
        yield f"{copies} copies were accepted, but at most {1 + len(resent) + retries} may be"
    # The e-mail is resent once. A second unknown outcome ends it, until a person retries it; so an
    # e-mail that is queued or being sent has had one less.
    most = 2 + retries - (document["status"] in (Status.QUEUED, Status.SENDING))
    if document["unknowns"] > most:
        yield f"{document['unknowns']} unknown outcomes are counted, but at most {most} may be"


# The status ---------------------------------------------------------------------------------------


def _check_status(stored: Stored, grace: float) -> Iterator[str]:
    document, status = stored.document, stored.status
    if (document.get("hold") is not None) != stored.is_held:
        yield "it is held, but has a time" if not stored.is_held else "it waits, but for no hold"
    yield from _CHECKS[status](stored, grace)
    yes = _accepted_lines(document["attempts"])
    late = document.get("late_accept") is not None
    if status is not Status.SENT:
        if yes and document.get("pending") is None and not late:
            yield "a vendor accepted it, but it is not sent"
        if document.get("sent_at") is not None:
            yield "sent_at is set, but it is not sent"
    if status.final and document.get("due_at") is not None:
        yield "it has ended, but due_at is set"
    if late and status not in (Status.SENDING, Status.SENT):
        yield "a late acceptance is recorded, but it is not sent"
    if status.final and document.get("pin") is not None and not late:
        yield "it has ended, but is pinned to a vendor"


def _check_queued(stored: Stored, grace: float) -> Iterator[str]:
    if stored.document.get("reason") is not None:
        yield "it has not ended, but has a reason"
    if stored.expires_in is not None and stored.expires_in < -grace:
        yield f"it expired {-stored.expires_in:.0f} s ago, but is still queued"


def _check_sending(stored: Stored, _grace: float) -> Iterator[str]:
    if stored.document.get("reason") is not None:
        yield "it has not ended, but has a reason"
    if stored.due_in > 0:
        yield "it is being sent before it is due"


def _check_sent(stored: Stored, _grace: float) -> Iterator[str]:
    document = stored.document
    lines = document["attempts"]
    is_marked = document.get("reason") == Reason.MARKED_SENT
    if document.get("sent_at") is None:
        yield "sent_at is missing"
    if document.get("reason") is not None and not is_marked:
        yield "it is sent, but its reason belongs to another status"
    if document.get("pending") is not None and not any(line.get("late") for line in lines):
        yield "it is sent, but recipients are pending"
    if is_marked:
        entries = document.get("interventions") or ()
        if all(entry["verb"] != Verb.MARK_SENT for entry in entries):
            yield "it is marked as sent, but no intervention says so"
        return
    if not _accepted_lines(lines) and not _is_cut(lines):
        yield "it is sent, but no vendor accepted it"
    if not schema.text(document.get("vendor")):
        yield "vendor is missing"
    if bool(document.get("simulated")) != (document["env"] == SIMULATED):
        yield "it was sent by a consumer of the other kind"


def _check_nothing_left(stored: Stored) -> Iterator[str]:
    """Failed and cancelled mean that no copy left our hands (a yes is looked for elsewhere)."""
    if stored.document["unknowns"] or _unknown_lines(stored.document["attempts"]):
        yield "it ended as not sent, but a copy may have left"
    if stored.document.get("pending") is not None:
        yield "it ended as not sent, but some recipients have received it"


def _check_failed(stored: Stored, _grace: float) -> Iterator[str]:
    if stored.document.get("reason") not in _FAILED:
        yield "its reason is missing or belongs to another status"
    yield from _check_nothing_left(stored)


def _check_cancelled(stored: Stored, _grace: float) -> Iterator[str]:
    if stored.document.get("reason") not in _CANCELLED:
        yield "its reason is missing or belongs to another status"
    yield from _check_nothing_left(stored)


def _check_uncertain(stored: Stored, _grace: float) -> Iterator[str]:
    if stored.document.get("reason") not in _UNCERTAIN:
        yield "its reason is missing or belongs to another status"
    if not stored.document["unknowns"]:
        yield "it is uncertain, but no outcome is unknown"


_CHECKS: Mapping[Status, Callable[[Stored, float], Iterator[str]]] = {
    Status.QUEUED: _check_queued,
    Status.SENDING: _check_sending,
    Status.SENT: _check_sent,
    Status.FAILED: _check_failed,
    Status.UNCERTAIN: _check_uncertain,
    Status.CANCELLED: _check_cancelled,
}


# All of them --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Audit:
    """What was found: e-mails by status, the illegal ones among them, and the first of these."""

    emails: Counter[str] = field(default_factory=Counter)
    illegal: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, str, list[str]]] = field(default_factory=list)

    def look(self, stored: Stored, grace: float) -> None:
        """Look at one e-mail."""
        status = str(stored.document.get("status"))
        self.emails[status] += 1
        if texts := problems(stored, grace):
            self.illegal[status] += 1
            if len(self.findings) < LISTED:
                self.findings.append((str(stored.id), status, texts))


def walk(
    store: Store,
    grace: float = GRACE,
    page: int = PAGE,
    advance: Callable[[int], object] = lambda _: None,
) -> Audit:
    """Look at every e-mail; ``advance`` hears how many were looked at, after each page."""
    audit = Audit()
    match: dict[str, Any] = {}
    while emails := store.find(match, page, "_id"):
        for stored in emails:
            audit.look(stored, grace)
        advance(len(emails))
        match = {"_id": {"$gt": emails[-1].id}}
    return audit

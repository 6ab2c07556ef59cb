"""What must be true of every e-mail in the end, whatever happened to servers and processes.

Decides: the promise (README, "What is promised") as a list of what is broken. It knows only the
stored document and the copies that the vendors took: nothing of how the product works.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Document = Mapping[str, Any]

MOST_COPIES = {"resend": 2, "park": 1}
ENDS = {"sent", "failed", "uncertain", "cancelled"}
NOTHING_LEFT = {"failed", "cancelled"}


def unknowns(document: Document) -> int:
    """The attempts whose outcome was not known, also if a yes came late."""
    return sum(_was_unknown(line) for line in document["attempts"])


def resent(document: Document) -> int:
    """The unknown outcomes after which the e-mail was claimed for another attempt."""
    lines = [line for line in document["attempts"] if line["outcome"] != "not_started"]
    return sum(_was_unknown(line) for line in lines[:-1])


def settled(document: Document) -> int:
    """The unknown outcomes for which a yes came late: from the worker itself, or by an event."""
    return sum(bool(line.get("late")) for line in document["attempts"])


def _was_unknown(line: Mapping[str, Any]) -> bool:
    return line["outcome"] == "unknown" or bool(line.get("late"))


def broken(document: Document, copies: int, on_unknown: str = "resend") -> list[str]:
    """What is wrong with one e-mail of which vendors took so many ``copies``; nothing: []."""
    return [*_wrong_copies(document, copies, on_unknown), *_wrong_ledger(document, copies)]


def _wrong_copies(document: Document, copies: int, on_unknown: str) -> Iterator[str]:
    status = document["status"]
    if status not in ENDS:
        yield f"has not ended: {status}"
    if status == "sent" and not copies:
        yield "lost: sent, but no vendor took it"
    if status in NOTHING_LEFT and copies:
        yield f"{status}, but a copy left"
    if copies > 1 + resent(document):
        yield f"{copies} copies, {resent(document)} unknown outcomes were resent"
    if copies > MOST_COPIES[on_unknown]:
        yield f"{copies} copies under {on_unknown}"


def _wrong_ledger(document: Document, copies: int) -> Iterator[str]:
    lines = document["attempts"]
    started = [line for line in lines if line["outcome"] != "not_started"]
    accepted = [line for line in lines if line["outcome"] == "accepted"]
    if any(line["outcome"] is None or line["ended_at"] is None for line in lines):
        yield "a ledger line is open"
    if copies > len(started):
        yield f"{copies} copies, {len(started)} attempts in the ledger"
    if len(accepted) > copies:
        yield f"{len(accepted)} accepted in the ledger, {copies} copies"
    if document["status"] == "sent" and not accepted:
        yield "sent without an accepted attempt"
    if document["unknowns"] != unknowns(document):
        yield f"unknowns is {document['unknowns']}, the ledger has {unknowns(document)}"
    tokens = [line["token"] for line in lines]
    if tokens != sorted(set(tokens)):
        yield "two ledger lines of one claim"

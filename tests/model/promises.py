"""What must hold of every stored e-mail after every step, whoever crashed and whatever was lost.

Decides: what is wrong with a document, seen beside the truth (what the vendors really took) and
beside what the document was before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from bson import ObjectId

from mailqueue.lifecycle.outcomes import Outcome, Reason, Status
from tests.model.stepping import Truth

Document = Mapping[str, Any]
REASONS = {reason.value for reason in Reason}


class Promises:
    """Looks at documents. ``most``: the copies that the policy allows without an operator."""

    def __init__(self, truth: Truth, most: int) -> None:
        self._truth, self._most = truth, most
        self._before: dict[ObjectId, Document] = {}
        self.retries: Counter[ObjectId] = Counter()  # an operator's, of uncertain e-mails

    def check(self, document: Document) -> None:
        """Raise an AssertionError that names the promise which is broken."""
        status = Status(document["status"])
        copies = self._copies(document)
        self._bounded(document, max(copies.values()))
        if status in (Status.FAILED, Status.CANCELLED):
            assert not any(copies.values()), f"{status}, but a copy left our hands"
        if status is Status.SENT and document.get("reason") != Reason.MARKED_SENT:
            served = {*(who for who, n in copies.items() if n), *(document.get("refused") or ())}
            assert served == copies.keys(), "sent, but not to all, and the rest is not recorded"
        if document["_id"] in self._truth.recorded:
            late = status is Status.SENDING and "late_accept" in document
            assert late or status is Status.SENT, f"a recorded yes was forgotten: {status}"
        FIELDS[status](document)
        self._ledger(document)
        self._before[document["_id"]] = document

    def _copies(self, document: Document) -> dict[str, int]:
        return {who: self._truth.copies[document["_id"], who] for who in document["email"]["to"]}

    def _bounded(self, document: Document, copies: int) -> None:
        resent, retries = document["unknowns"], self.retries[document["_id"]]
        counted = f"{copies} copies, {resent} unknown, {retries} retries"
        assert copies <= min(self._most, 1 + resent) + retries, counted
        if document["status"] in (Status.QUEUED, Status.SENDING):
            assert resent < self._most + retries, f"is to be sent once more: {counted}"

    def _ledger(self, document: Document) -> None:
        """Lines are added, closed, and never lost, reopened or rewritten."""
        lines, token = document["attempts"], document["lease"]["token"]
        for earlier, later in pairwise(lines):
            assert earlier["token"] < later["token"]
            assert earlier["n"] < later["n"]
        assert all(line["token"] <= token for line in lines)
        for line in lines:
            here = document["status"] == Status.SENDING and line["token"] == token
            # A late yes may close the line of its own claim only; the claim itself stays open.
            assert (line["outcome"] is None) == here, "a line is open without a claim, or closed"
        for vendor in {vendor for _, vendor in self._truth.calls}:
            intents = sum(line["vendor"] == vendor for line in lines)
            assert self._truth.calls[document["_id"], vendor] <= intents, "sent without an intent"
        self._grown(document)

    def _grown(self, document: Document) -> None:
        before = self._before.get(document["_id"])
        if before is None:
            return
        assert before["lease"]["token"] <= document["lease"]["token"]
        lines = document["attempts"]
        for old, new in zip(before["attempts"], lines, strict=False):
            if old["outcome"] is None and new.get("code") == "lease_expired":
                assert before["lease"]["until"] <= new["ended_at"], "taken from its living owner"
            fixed = ("n", "token", "vendor", "key")
            assert [old[name] for name in fixed] == [new[name] for name in fixed]
            if old["outcome"] not in (None, new["outcome"]):
                assert new["outcome"] == Outcome.ACCEPTED, "a closed line was rewritten"
                assert new.get("late")
        assert len(before["attempts"]) <= len(lines)
        if before["status"] in (Status.SENT, Status.CANCELLED):
            assert document["status"] in (before["status"], Status.SENT), "an end was undone"


def _no_claim(document: Document) -> None:
    assert document["lease"].keys() == {"token"}


def _ended(document: Document) -> None:
    _no_claim(document)
    assert document.get("due_at") is None
    assert document.get("pin") is None
    if document["status"] != Status.UNCERTAIN:
        assert document.get("pending") is None


def _queued(document: Document) -> None:
    _no_claim(document)
    assert document.get("reason") is None
    assert "late_accept" not in document
    assert "sent_at" not in document
    if send_at := document.get("send_at"):
        assert (document["due_at"] or datetime.now(UTC)) >= send_at, "is due before its time"


def _sending(document: Document) -> None:
    lease = document["lease"]
    assert lease.keys() == {"token", "owner", "nonce", "until"}
    assert document["attempts"][-1]["token"] == lease["token"], "a claim without an intent"


def _sent(document: Document) -> None:
    _ended(document)
    assert document["sent_at"] is not None
    if document.get("reason") == Reason.MARKED_SENT:
        return
    assert document.get("reason") is None
    assert document["simulated"]
    yes = {x["vendor"] for x in document["attempts"] if x["outcome"] == Outcome.ACCEPTED}
    assert document["vendor"] in yes, "sent, but no line says who took it"


def _failed(document: Document) -> None:
    _ended(document)
    assert document["reason"] in REASONS
    assert not document["unknowns"], "failed, though an outcome is unknown"


def _uncertain(document: Document) -> None:
    _ended(document)
    assert document["reason"] in REASONS
    assert document["unknowns"], "uncertain, though no outcome is unknown"


def _cancelled(document: Document) -> None:
    _ended(document)
    assert document["reason"] == Reason.CANCELLED


FIELDS = {
    Status.QUEUED: _queued,
    Status.SENDING: _sending,
    Status.SENT: _sent,
    Status.FAILED: _failed,
    Status.UNCERTAIN: _uncertain,
    Status.CANCELLED: _cancelled,
}

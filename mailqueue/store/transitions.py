"""The transitions of a stored e-mail: the guard before each, and the update it makes. Pure.

Decides: what must be true of a document for a transition to happen, and how a ``Decision`` is
written down. Each comes as a pair of a filter (the guard) and an update with a pipeline.

Assumes: MongoDB evaluates guard and update of one document in one step, so that nothing happens
between the two, and every time is the server's (``$$NOW``).

Promises: every transition is guarded by status and fencing token, so that writing it twice, or by a
worker that lost its lease, changes nothing. Only a yes needs no lease: it always counts.
An update works on every document, of whatever types its other fields are. What it cannot do without
was checked by the reader of the document (``document.Stored``). Where the update is refused all the
same, a ``short`` settlement or an ``Aside`` ends the e-mail without asking the document for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from mailqueue.lifecycle.outcomes import (
    HIGH,
    NORMAL,
    OVERDUE,
    Decision,
    Outcome,
    Pin,
    SendResult,
    Status,
)
from mailqueue.lifecycle.values import value
from mailqueue.store import ledger
from mailqueue.store.document import HELD

OVERDUE_MS = {
    "$cond": [
        {"$eq": ["$priority", HIGH]},
        round(OVERDUE[HIGH] * 1000),
        round(OVERDUE[NORMAL] * 1000),
    ]
}
CLOCK_FROM = {"$ifNull": ["$clock_from", "$$NOW"]}
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
FINAL = [status.value for status in Status if status.final]
UNEXPIRED = {"$gt": [{"$ifNull": ["$expires_at", _NEVER]}, "$$NOW"]}
HAS_LATE_YES = {"$eq": [{"$type": "$late_accept"}, "object"]}

# How to read the pipelines. All expressions of one $set read the document as it was before that
# step. "$name" is a field and "$$NAME" a variable, so what came from outside (a vendor's code, a
# recipient) is wrapped in $literal and stays what it is. $literal also makes an object replace the
# one that is there: without it {token: 1} would be merged into the lease. A field is removed
# ($$REMOVE) where an index has only the documents with that field; elsewhere null is as good.

Pipeline = list[dict[str, Any]]
Filter = dict[str, Any]
Write = tuple[Filter, Pipeline]


@value
class Claim:
    """The intent to send one e-mail through one vendor; ``token`` is the one that was read.

    ``incarnation``: as ``Stored`` has it.
    """

    id: ObjectId
    token: int
    incarnation: ObjectId | None = None
    vendor: str
    key: str | None = None
    probe: bool = False
    suppressed: tuple[str, ...] = field(default=(), repr=False)  # left out of the attempt
    unavailable: tuple[str, ...] = ()  # other vendors that were so when this one was chosen
    redirected: bool = False  # by staging

    @property
    def new_token(self) -> int:
        """The token of the e-mail once it is claimed, and of the ledger line that this opens."""
        return self.token + 1

    @property
    def key_of(self) -> str | None:
        """The field whose value is the ``key``: the usual one. None: it is another."""
        if self.key != str(self.incarnation or self.id):
            return None
        return "_id" if self.incarnation is None else "nonce"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a worker takes with its claims: for how many ``seconds`` the e-mails are its own.

    ``nonce`` is another one for each write, so that a worker whose reply was lost knows its claims.
    """

    owner: str
    nonce: ObjectId
    seconds: float


@value
class Change:
    """A decided transition of one e-mail.

    ``sending`` under ``token`` (and ``nonce`` when given), or ``queued`` while the newest token is
    ``token``. ``result`` closes the ledger line of that token; None with ``sending``: nothing was
    sent (``not_started``). ``expired`` also demands that the lease has run out. ``has_callback``:
    the e-mail has a ``callback_url``, so that its end is noted (``callbacks``). ``hold``: it stays
    queued and waits under this name (``control``), instead of the decision's delay.
    ``incarnation``: as ``Stored`` has it. ``request_id``, and ``seconds`` of the vendor's call, are
    for those who are told of the change (``ends``).
    """

    id: ObjectId
    token: int
    decision: Decision
    incarnation: ObjectId | None = None
    sending: bool = True
    nonce: ObjectId | None = None
    result: SendResult | None = None
    vendor: str | None = None
    expired: bool = False
    has_callback: bool = False
    hold: str | None = None
    request_id: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """The end of an e-mail whose document is damaged; its ``guard`` is what was read of it.

    What it becomes follows from the rest of it: ``failed`` if surely no copy left our hands.
    """

    id: ObjectId
    guard: Filter


# Claim: queued → sending -------------------------------------------------------------------------
#
# Rule: an e-mail that is queued, of my env, due, not expired, and whose token is still the one that
# was read, is mine: its token grows by one, the lease is mine until its time, and the ledger has an
# open line. All of that is durable before a vendor hears of the e-mail.
#
#   before  {status: "queued", lease: {token: 0}, attempts: []}
#   after   {status: "sending", lease: {token: 1, owner: "web-1:…", nonce: N, until: NOW + 90 s},
#            attempts: [{n: 1, token: 1, vendor: "ses", key: "6…", started_at: NOW, outcome: null}]}
#
# Two workers that read token 0 cannot both win: the first claim makes it 1. A worker whose reply
# was lost finds its own claim by the nonce. The document keeps its token for good, so no two claims
# of one e-mail ever have the same one.
#
# An ``_id`` that follows from a key comes again once its e-mail was pruned and the key is used
# anew. What was read of the earlier e-mail must do nothing to the later one. So the first token of
# such an e-mail is of the clock; and as a clock may go back, every guard asks for the document's
# own nonce, too (``same_email``).


def same_email(email_id: ObjectId, incarnation: ObjectId | None) -> Filter:
    """This e-mail, and not another one that has its ``_id`` since."""
    return {"_id": email_id} if incarnation is None else {"_id": email_id, "nonce": incarnation}


def _own_token(item: Claim | Change) -> Any:
    """The token that the guard found, for the update.

    Tokens of the clock differ from e-mail to e-mail: the server takes each document's own, so that
    one update does for many (``merging``).
    """
    return item.token if item.incarnation is None else "$lease.token"


def claim_filter(claim: Claim, env: str) -> Filter:
    """Queued, of my kind, due, not expired, and not claimed since it was read."""
    return {
        **same_email(claim.id, claim.incarnation),
        "status": Status.QUEUED.value,
        "env": env,
        "lease.token": claim.token,
        "$expr": {"$and": [{"$lte": [{"$ifNull": ["$due_at", "$$NOW"]}, "$$NOW"]}, UNEXPIRED]},
    }


def claim_update(claim: Claim, lease: Lease) -> Pipeline:
    """Take the lease and open the ledger line (the intent) in one write."""
    # The usual key is computed, so that claims are alike.
    key = {"$toString": f"${claim.key_of}"} if claim.key_of else {"$literal": claim.key}
    token: Any = claim.new_token
    if claim.incarnation is not None:
        token = {"$add": [_own_token(claim), 1]}
    new_lease = {
        "token": token,
        "owner": {"$literal": lease.owner},
        "nonce": lease.nonce,
        "until": _after(lease.seconds),
    }
    return [
        {
            "$set": {
                "status": Status.SENDING.value,
                "lease": new_lease,
                "attempts": ledger.with_new_line(
                    token,
                    claim.vendor,
                    key,
                    probe=claim.probe,
                    suppressed=claim.suppressed,
                    unavailable=claim.unavailable,
                    redirected=claim.redirected,
                ),
                "clock_from": CLOCK_FROM,
                "updated_at": "$$NOW",
            }
        }
    ]


# Change: sending → what was decided; queued → what was decided -----------------------------------
#
# Three transitions share this pair.
#
# Settle: an e-mail that is sending under my token and my nonce becomes what was decided, its ledger
# line is closed and the lease is gone.
#
#   before  {status: "sending", lease: {token: 1, nonce: N, …},
#            attempts: [{token: 1, outcome: null}]}
#   after   {status: "sent", lease: {token: 1}, sent_at: NOW, vendor: "ses",
#            attempts: [{token: 1, outcome: "accepted", code: "200", ended_at: NOW}]}
#
# Rescue: the same for an e-mail whose lease has run out (``expired``), whoever had it: the outcome
# of its open line is unknown. The nonce is not asked for.
#
#   before  {status: "sending", lease: {token: 1, nonce: N, until: NOW - 5 s, …}, unknowns: 0,
#            attempts: [{token: 1, outcome: null}]}
#   after   {status: "queued", lease: {token: 1}, unknowns: 1, due_at: null,
#            attempts: [{token: 1, outcome: "unknown", code: "lease_expired", ended_at: NOW}]}
#
# Queued: an e-mail that nobody is sending (it has expired, or no vendor can be asked) becomes what
# was decided if its token is still the one that was read. No ledger line is touched.
#
#   before  {status: "queued", lease: {token: 1}, expires_at: NOW - 1 s}
#   after   {status: "failed", reason: "expired", lease: {token: 1}}
#
# Hold: the same for one that an operator holds (``control``). It waits, without a job, for the end
# of the hold. All else stays as it is; its age does not begin with this.
#
#   before  {status: "queued", lease: {token: 1}, due_at: null, overdue_at: NOW + 900 s}
#   after   {status: "queued", lease: {token: 1}, due_at: HELD, hold: "tag:news"}


def change_filter(change: Change) -> Filter:
    """The guard of a settlement, a rescue, or a transition of a queued e-mail."""
    guard: Filter = {
        **same_email(change.id, change.incarnation),
        "status": (Status.SENDING if change.sending else Status.QUEUED).value,
        "lease.token": change.token,
    }
    if change.nonce is not None:
        guard["lease.nonce"] = change.nonce
    if change.expired:
        guard["$expr"] = {"$lt": ["$lease.until", "$$NOW"]}
    return guard


def change_update(alike: Sequence[Change], *, simulated: bool, short: bool = False) -> Pipeline:
    """Write the decision down; a yes that came late in the meantime wins over it.

    ``alike`` differ in nothing but the e-mail and the vendor's id for it, so that one update writes
    them all. ``short``: of the ledger only the line of this attempt is kept, without what is long.
    """
    change = alike[0]
    decision = change.decision
    message_id = _message_id(alike)
    token = _own_token(change)
    fields: dict[str, Any] = {
        "status": decision.status.value,
        "reason": decision.reason,
        "due_at": _after(decision.delay) if decision.delay > 0 else None,
        "lease": {"$mergeObjects": [{"token": token}]},
        "round": {
            "n": decision.round.n,
            "tried": list(decision.round.tried),
            "refused": list(decision.round.refused),
        },
        "pin": _pin(decision.pin),
        "pending": _literal_list(decision.pending),
        "refused": _literal_list(decision.refused or None),
        "unknowns": decision.unknowns,
        "counted": decision.counted,
        "announced": None,
        "overdue_at": _overdue_at(decision),
        "updated_at": "$$NOW",
    }
    if change.sending:
        attempts = ledger.only_closed_line if short else ledger.with_closed_line
        fields["attempts"] = attempts(token, ledger.line_end(change.result, message_id))
    elif change.hold is not None:
        fields |= {"due_at": HELD, "overdue_at": "$$REMOVE", "hold": {"$literal": change.hold}}
    else:
        fields |= {"clock_from": CLOCK_FROM, "hold": "$$REMOVE"}
    if change.result is not None and change.result.outcome is Outcome.ACCEPTED:
        fields["vendor"] = {"$literal": change.vendor}
        fields["vendor_message_id"] = message_id
    if decision.status is Status.SENT:
        return [{"$set": fields | sent_fields(simulated)}]
    # Each step reads what the one before made; the last overrules it where a yes came meanwhile.
    steps = [fields, _late_yes_wins(simulated)]
    if change.result is not None and change.result.outcome is Outcome.UNKNOWN:
        steps.insert(1, ledger.event_as_yes(token, HAS_LATE_YES))
    return [{"$set": step} for step in steps]


def _late_yes_wins(simulated: bool) -> dict[str, Any]:
    """What a settlement becomes where ``late_accept`` stands beside it: sent, after all."""
    sent = _becomes_sent(
        vendor="$late_accept.vendor",
        message_id="$late_accept.message_id",
        refused="$late_accept.refused",
        simulated=simulated,
    )
    return {
        field: {"$cond": [HAS_LATE_YES, value, current(field)]} for field, value in sent.items()
    }


def _becomes_sent(*, vendor: Any, message_id: Any, refused: Any, simulated: bool) -> dict[str, Any]:
    """The fields of an e-mail that a vendor took, whatever it was called before."""
    return {
        "status": Status.SENT.value,
        "reason": None,
        "due_at": None,
        "overdue_at": "$$REMOVE",
        "pin": None,
        "pending": None,
        "refused": refused,
        "vendor": vendor,
        "vendor_message_id": message_id,
        **sent_fields(simulated),
    }


def sent_fields(simulated: bool) -> dict[str, Any]:
    """What says when an e-mail was sent, and that no vendor was called."""
    return {"sent_at": "$$NOW", **({"simulated": True} if simulated else {})}


def current(field: str) -> dict[str, Any]:
    """The field as it is; null becomes missing, which means the same."""
    return {"$ifNull": [f"${field}", "$$REMOVE"]}


# Late yes: anything → sent -----------------------------------------------------------------------
#
# Rule: a vendor's yes always counts, also from a worker that lost its lease. If nobody is sending
# the e-mail now, it becomes ``sent``. While another worker is sending it, that worker's settlement
# must not be disturbed: the yes waits in ``late_accept`` until the settlement takes it in
# (``_late_yes_wins``). An e-mail that is sent already stays so, and its ledger tells of the extra
# copy.
#
#   before  {status: "queued", lease: {token: 1}, attempts: [{token: 1, outcome: "unknown"}]}
#   after   {status: "sent", vendor: "ses", sent_at: NOW, attempts: [{token: 1, outcome: "accepted",
#            late: true, extra_copy: false}]}


def late_yes_filter(email_id: ObjectId, token: int, incarnation: ObjectId | None = None) -> Filter:
    """Any status: only a yes that this line has already is not written again."""
    open_or_unknown = {"token": token, "outcome": {"$ne": Outcome.ACCEPTED.value}}
    return same_email(email_id, incarnation) | {"attempts": {"$elemMatch": open_or_unknown}}


def late_yes_update(token: int, vendor: str, result: SendResult, simulated: bool) -> Pipeline:
    """A yes from a worker that lost its lease: the e-mail is sent, whatever it is by now.

    Recipients that this vendor refused or put off are recorded as refused: it is not tried again.
    """
    sending = {"$eq": ["$status", Status.SENDING.value]}
    sent = {"$eq": ["$status", Status.SENT.value]}
    message_id = {"$literal": result.message_id}
    others = {"$literal": [*result.refused, *result.pending]}
    yes = {
        "vendor": {"$literal": vendor},
        "message_id": message_id,
        "refused": {"$setUnion": [ledger.array("$refused"), others]},
        "token": token,
        "at": "$$NOW",
    }
    new_fields = _becomes_sent(
        vendor=yes["vendor"], message_id=message_id, refused=yes["refused"], simulated=simulated
    )
    new_fields["hold"] = "$$REMOVE"
    keep = {"$or": [sending, sent]}
    fields: dict[str, Any] = {
        field: {"$cond": [keep, current(field), value]} for field, value in new_fields.items()
    }
    fields["late_accept"] = {"$cond": [sending, yes, current("late_accept")]}
    end = ledger.line_end(result, message_id) | {"late": True, "extra_copy": sent}
    fields["attempts"] = ledger.with_closed_line(token, end)
    return [{"$set": fields | {"updated_at": "$$NOW"}}]


# Look-up: queued stays queued --------------------------------------------------------------------
#
# Rule: a vendor that was asked about an unknown outcome and does not know the e-mail is not asked
# again; the e-mail may be sent again. That the vendor does not know it proves nothing.
#
#   before  {status: "queued", attempts: [{token: 1, outcome: "unknown"}]}
#   after   {status: "queued", attempts: [{token: 1, outcome: "unknown", looked_up: true}]}


def look_up_filter(email_id: ObjectId, token: int, incarnation: ObjectId | None = None) -> Filter:
    """Still queued, and this line's vendor was not asked yet."""
    line = {"token": token, "looked_up": {"$ne": True}}
    email = same_email(email_id, incarnation)
    return email | {"status": Status.QUEUED.value, "attempts": {"$elemMatch": line}}


def look_up_update(token: int) -> Pipeline:
    """The vendor was asked and did not know the e-mail."""
    return [{"$set": {"attempts": ledger.with_closed_line(token, {"looked_up": True})}}]


# Values of fields --------------------------------------------------------------------------------


def _message_id(alike: Sequence[Change]) -> dict[str, Any]:
    """The vendor's id for the e-mail that is written.

    One update writes many e-mails: each finds the place of its ``_id`` in a list, and takes the
    vendor's id from that place of another.
    """
    ids = [change.result and change.result.message_id for change in alike]
    if all(each == ids[0] for each in ids):
        return {"$literal": ids[0]}
    which = {"$indexOfArray": [{"$literal": [change.id for change in alike]}, "$_id"]}
    return {"$arrayElemAt": [{"$literal": ids}, which]}


def _pin(pin: Pin | None) -> Any:
    if pin is None:
        return None
    until = _after(max(0.0, pin.remaining))
    return {"vendor": pin.vendor, "key": pin.key, "until": until, "repeats": pin.repeats}


def _literal_list(values: Sequence[str] | None) -> Any:
    return None if values is None else {"$literal": list(values)}


def _overdue_at(decision: Decision) -> Any:
    """When a queued e-mail is announced again although its job should be there."""
    if decision.status is not Status.QUEUED:
        return "$$REMOVE"
    return {"$add": ["$$NOW", round(decision.delay * 1000), OVERDUE_MS]}


def _after(seconds: float) -> dict[str, Any]:
    return {"$add": ["$$NOW", round(seconds * 1000)]}

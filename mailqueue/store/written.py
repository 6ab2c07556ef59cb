"""What a document tells of a write, where the number of documents that matched does not. Pure.

Decides: whether a transition is in it, and whether a late yes made the e-mail sent. What cannot be
read tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailqueue.lifecycle.outcomes import Outcome, Status
from mailqueue.store.document import Document
from mailqueue.store.ledger import NOT_STARTED
from mailqueue.store.transitions import Change

_DAMAGE = (LookupError, TypeError, AttributeError)


def is_written(change: Change, document: Document) -> bool:
    """Whether the transition is in the document, though the write matched nothing this time.

    A write whose reply was lost is repeated, and its repeat matches nothing: the first one did it.
    """
    if change.incarnation not in (None, document.get("nonce")):
        return False
    try:
        return (
            _has_closed_line(change, document) if change.sending else _has_status(change, document)
        )
    except _DAMAGE:
        return False


def _has_closed_line(change: Change, document: Document) -> bool:
    """Another worker may have found that the outcome is unknown, too: its code is another one.

    A late yes that the settlement took in has made the outcome of its line another one.
    """
    result = change.result
    outcome, code = (NOT_STARTED, None) if result is None else (result.outcome.value, result.code)
    if has_unknown_outcome(change) and is_of_attempt(yes_of_settlement(change, document), change):
        outcome = Outcome.ACCEPTED.value
    return any(
        line["token"] == change.token and line["outcome"] == outcome and line.get("code") == code
        for line in document["attempts"]
    )


def _has_status(change: Change, document: Document) -> bool:
    same = bool(document["lease"]["token"] == change.token)
    return same and document["status"] == change.decision.status.value


# A late yes -------------------------------------------------------------------------------------


def has_unknown_outcome(change: Change) -> bool:
    """Whether a copy may have left in the attempt of a change."""
    return change.result is not None and change.result.outcome is Outcome.UNKNOWN


def may_be_overruled(change: Change) -> bool:
    """Whether a late yes may have made something else of a change than was decided.

    A yes comes late only where an outcome is unknown, of this attempt or an earlier one.
    """
    decision = change.decision
    if not change.sending or decision.status is Status.SENT:
        return False
    return has_unknown_outcome(change) or decision.unknowns > 0 or decision.pin is not None


def yes_of_settlement(change: Change, document: Document) -> Mapping[str, Any] | None:
    """The late yes that a settlement has taken in, and that made the e-mail sent (see above)."""
    try:
        is_sent = document["status"] == Status.SENT.value
        yes = document.get("late_accept")
        if is_sent and document["lease"]["token"] == change.token and isinstance(yes, Mapping):
            return yes
    except _DAMAGE:
        pass
    return None


def is_of_attempt(yes: Mapping[str, Any] | None, change: Change) -> bool:
    """Whether a late yes is that of the change's own attempt, by an event of the vendor."""
    return _is_of(change.token, yes)


def _is_of(token: int, yes: Mapping[str, Any] | None) -> bool:
    return yes is not None and yes.get("token") == token


def is_sent_by_late_yes(document: Document, token: int) -> bool:
    """Whether the late yes of this ledger line made the e-mail sent.

    Not if it waited for the settlement of a later attempt, nor if it is one more copy.
    """
    try:
        waited = isinstance(yes := document.get("late_accept"), Mapping) and _is_of(token, yes)
        return (
            document["status"] == Status.SENT.value
            and not waited
            and any(
                line["token"] == token and line.get("late") and not line.get("extra_copy")
                for line in document["attempts"]
            )
        )
    except _DAMAGE:
        return False

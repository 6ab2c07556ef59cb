"""What each status, reason and outcome means, in sentences. Pure.

Decides: the words. ``history`` and ``outlook`` say when which of them is true.

Promises: there is a text for every status, reason, outcome, type of event and state of a callback.
No text claims what is not known: after an unknown outcome the e-mail "may have reached its
readers". ``{vendor}`` is a name of the configuration; ``{code}`` the vendor's own word or number.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailqueue.lifecycle.decide import REFUSES_ALL
from mailqueue.lifecycle.outcomes import Outcome, Reason, Status
from mailqueue.store import callbacks
from mailqueue.store.ledger import NOT_STARTED
from mailqueue.vendors.base import ENVELOPE, HEADER_INJECTION, SIZE, SMTPUTF8
from mailqueue.vendors.events.source import EventType

MAY_HAVE_ARRIVED = "It may have reached its readers."

STATUSES: Mapping[Status, str] = {
    Status.QUEUED: "It is queued.",
    Status.SENDING: "It is being sent.",
    Status.SENT: "It was sent.",
    Status.FAILED: "It failed. No copy left.",
    Status.UNCERTAIN: "It is uncertain. It may have reached its readers, or not.",
    Status.CANCELLED: "It was cancelled. No copy left.",
}
SENT_TO_SOME = "It was sent, but not to all recipients."
SENT_BY_HAND = "A person recorded that it was sent."
SIMULATED = "It was sent in a simulation: no vendor was called, and nobody got it."

REASONS: Mapping[Reason, str] = {
    Reason.REJECTED: "A vendor refused it for good, so no other was asked after that.",
    Reason.REFUSED_BY_ALL: "No vendor is left that takes this e-mail: "
    "each one found it unsuitable, or cannot carry it.",
    Reason.EXHAUSTED: "It has had as many attempts as retry.max_attempts allowed.",
    Reason.GAVE_UP: "It was tried for as long as retry.give_up_after allowed.",
    Reason.EXPIRED: "Its expires_at passed without a yes.",
    Reason.SUPPRESSED: "Each recipient that it still had was on the suppression list.",
    Reason.NOT_ALLOWED: "None of its recipients was on the list of this staging installation.",
    Reason.UNKNOWN: "The outcome of an attempt is unknown, "
    "and mailqueue does not risk one more copy by itself.",
    Reason.UNREADABLE: "Its document could not be read: "
    "it is damaged, or a newer version wrote it.",
    Reason.CANCELLED: "The application cancelled it.",
    Reason.MARKED_SENT: SENT_BY_HAND,
}
CANCELLED_BY_HAND = "A person cancelled it."

# What came of an attempt. ``None``: it is under way.
OUTCOMES: Mapping[str | None, str] = {
    Outcome.ACCEPTED: "{vendor} accepted it{code}.",
    Outcome.REJECTED: "{vendor} refused it for good{code}: by what it says, nobody can deliver it.",
    Outcome.UNSUITABLE: "{vendor} does not take this e-mail{code}. Other vendors may.",
    Outcome.DEFERRED: "{vendor} put it off{code}: the recipient's server asks to wait.",
    Outcome.THROTTLED: "{vendor} got too much at a time{code}. Nothing was sent.",
    Outcome.UNAVAILABLE: "{vendor} did not work{code}. Nothing was sent.",
    Outcome.MISCONFIGURED: "{vendor} refused our account, key or quota{code}. Nothing was sent.",
    Outcome.UNKNOWN: f"Nobody knows whether {{vendor}} took it{{code}}. {MAY_HAVE_ARRIVED}",
    NOT_STARTED: "The claim was given back before {vendor} was asked. Nothing was sent.",
    None: "There is no answer yet.",
}
OTHER_OUTCOME = "{vendor} answered something that this version does not know."
LATE_YES = "{vendor} accepted it. That was heard late."
YES_BY_EVENT = "{vendor} took it: an event that it reported later proves that."
EVENT_MEANWHILE = "An event of {vendor} says that it took the e-mail."
REDIRECTED = "It went to staging.redirect_to, in the place of recipients outside staging's list."
EXTRA_COPY = "It was sent before by another attempt, so its readers may have it twice."
LOOKED_UP = "Asked later, {vendor} did not know the e-mail. That proves nothing."

# Codes of our own, which say more than the outcome (``vendors.base``, ``router``, ``sender``).
CODES: Mapping[tuple[Outcome, str], str] = {
    (Outcome.ACCEPTED, "event"): YES_BY_EVENT,
    (Outcome.ACCEPTED, "simulated"): "The simulation accepted it in the place of {vendor}.",
    (Outcome.UNKNOWN, "lease_expired"): "The consumer died, hung or lost MongoDB before it "
    f"recorded an answer of {{vendor}}. {MAY_HAVE_ARRIVED}",
    (Outcome.UNKNOWN, "deadline"): f"{{vendor}} had not answered in time. {MAY_HAVE_ARRIVED}",
    (Outcome.THROTTLED, "no_connection"): "All connections to {vendor} were in use. "
    "Nothing was sent.",
    (Outcome.UNAVAILABLE, "not_made"): "The class of {vendor} could not be made. Nothing was sent.",
    (Outcome.REJECTED, HEADER_INJECTION): "One of its headers could inject another one, "
    "so {vendor} was not asked.",
    (Outcome.UNSUITABLE, ENVELOPE): "{vendor} cannot send to some of its recipients only.",
    (Outcome.UNSUITABLE, SIZE): "It is too large for the server of {vendor}.",
    (Outcome.UNSUITABLE, SMTPUTF8): "The server of {vendor} does not take one of its addresses.",
    (Outcome.MISCONFIGURED, REFUSES_ALL): "{vendor} refused one e-mail after the other{code}, "
    "so its refusal of this one was not believed. Nothing was sent.",
}

EVENTS: Mapping[str, str] = {
    EventType.QUEUED: "it has the e-mail",
    EventType.SENT: "the e-mail is on its way",
    EventType.DELIVERED: "the recipient's server took it",
    EventType.DEFERRED: "the recipient's server asks to wait, the vendor tries again",
    EventType.BOUNCED_HARD: "it bounced for good",
    EventType.BOUNCED_SOFT: "it bounced, for a passing cause, and was given up",
    EventType.REJECTED: "the vendor did not try to deliver it",
    EventType.FAILED: "the vendor could not deliver it",
    EventType.COMPLAINED: "a reader called it spam",
    EventType.UNSUBSCRIBED: "a reader unsubscribed",
    EventType.RESUBSCRIBED: "a reader subscribed again",
    EventType.OPENED: "it was opened",
    EventType.CLICKED: "a link was clicked",
    EventType.AUTORESPONDED: "the recipient's server answered by itself",
    EventType.UNKNOWN: "something that mailqueue does not know",
}

CALLBACKS: Mapping[str, str] = {
    callbacks.DUE: "The application is still to be told of {type}{tries}.",
    callbacks.DELIVERED: "The application was told of {type}{code}.",
    callbacks.GONE: "The application's receiver answered 410, so it is not told of {type}.",
    callbacks.FAILED: "The application was not told of {type}{code}: its receiver did not take it.",
}


def outcome_text(
    outcome: str | None, vendor: str, code: str, *, late: bool = False, event: bool = False
) -> str:
    """What came of an attempt at this vendor.

    ``late``: its yes was heard late; ``event``: the vendor's event came while it was under way.
    """
    text = OUTCOMES.get(outcome, OTHER_OUTCOME)
    own, _, rest = code.partition(" ")
    if outcome in OUTCOMES and outcome not in (None, NOT_STARTED):
        own_text = CODES.get((Outcome(outcome), own))
        text, code = (own_text, rest) if own_text else (text, code)
    if late and text == OUTCOMES[Outcome.ACCEPTED]:
        text = YES_BY_EVENT if event else LATE_YES
    elif event and outcome is None:
        text += " " + EVENT_MEANWHILE
    return text.format(vendor=vendor, code=f" ({code})" if code else "")

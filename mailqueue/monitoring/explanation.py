"""The explanation of one e-mail: what happened, why, what comes next, what a person can do. Pure.

Decides: the headline, and which commands help. ``history`` and ``outlook`` have the sentences,
``wording`` their words.

Promises: any document can be explained; of a damaged one what can be read of it. No address,
subject, body or key is in it. No text is wrapped, and none is of the terminal or of a browser.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from mailqueue.config import Config
from mailqueue.errors import Unreadable
from mailqueue.lifecycle.outcomes import Outcome, Reason, Status
from mailqueue.monitoring import wording
from mailqueue.monitoring.conditions import Conditions
from mailqueue.monitoring.history import (
    History,
    as_time,
    last_verb,
    objects,
    reason_of,
    status_of,
    text,
)
from mailqueue.monitoring.outlook import Outlook
from mailqueue.monitoring.sentence import Action, Sentence
from mailqueue.monitoring.words import span
from mailqueue.store import callbacks, interventions
from mailqueue.store.document import Document, Stored
from mailqueue.store.interventions import Verb

DAMAGED = "Its document is damaged, so nothing can be said of what comes next."


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is to be said of one e-mail.

    ``status`` and ``reason``: as they are stored. ``summary``: the headline. ``history``: what
    happened, in order. ``next``: what comes next; ``next_at``: when, None if nobody knows, or if
    nothing does by itself. ``actions``: what a person can do.
    """

    id: str
    status: str | None
    reason: str | None
    summary: str
    history: tuple[Sentence, ...]
    next: tuple[Sentence, ...]
    next_at: datetime | None
    actions: tuple[Action, ...]


def explain(
    stored: Stored,
    config: Config,
    conditions: Conditions,
    *,
    events: Sequence[Document] = (),
    content: bool = False,
) -> Explanation:
    """Explain an e-mail, which was read with its content.

    ``events``: what its vendors told of it, the oldest first. ``content``: also vendors' words.
    """
    names = [vendor.name for vendor in config.vendors]
    history = History(stored, names, conditions, events, content)
    future, is_held = Outlook(stored, config, conditions), stored.is_held
    try:
        outlook, is_held = tuple(future.sentences()), future.is_held
    except Unreadable:
        outlook = (Sentence(DAMAGED),)
    status, reason = status_of(stored.document), stored.document.get("reason")
    return Explanation(
        id=str(stored.id),
        status=status,
        reason=reason if isinstance(reason, str) else None,
        summary=_summary(stored, is_held=is_held),
        history=tuple(history.sentences()),
        next=outlook,
        next_at=outlook[0].at,
        actions=tuple(_actions(stored, outlook)),
    )


def _summary(stored: Stored, *, is_held: bool) -> str:
    """The headline."""
    document = stored.document
    status, reason = status_of(document), reason_of(document)
    if status is None:
        return "Its status cannot be read: its document is damaged."
    if status is Status.SENT:
        return _sent(document, reason)
    if status is Status.QUEUED:
        return _queued(stored, is_held=is_held)
    if reason is None:
        return wording.STATUSES[status]
    words = wording.REASONS[reason]
    if reason is Reason.CANCELLED and last_verb(document) is Verb.CANCEL:
        words = wording.CANCELLED_BY_HAND
    return f"{wording.STATUSES[status]} {words}"


def _queued(stored: Stored, *, is_held: bool) -> str:
    words = "It is queued, and due."
    if is_held:
        words = "It is queued, and waits: an operator held it."
    elif (due_at := as_time(stored.document.get("due_at"))) and due_at > stored.now:
        words = f"It is queued, and due in {span((due_at - stored.now).total_seconds())}."
    some = " Some of its recipients have it." if stored.document.get("pending") is not None else ""
    return words + some


def _sent(document: Document, reason: Reason | None) -> str:
    if reason is Reason.MARKED_SENT:
        return wording.SENT_BY_HAND
    if document.get("simulated") is True:
        return wording.SIMULATED
    words = wording.SENT_TO_SOME if document.get("refused") else wording.STATUSES[Status.SENT]
    if vendor := text(document.get("vendor")):
        words += f" {vendor} accepted it."
    yeses = [
        line
        for line in objects(document.get("attempts"))
        if line.get("outcome") == Outcome.ACCEPTED
    ]
    if any(line.get("redirected") is True for line in yeses):
        words += f" {wording.REDIRECTED}"
    if summary := text(document.get("delivery_summary")):
        words += f" Its events say since: {summary}."
    return words


# What a person can do -----------------------------------------------------------------------------


def _actions(stored: Stored, outlook: Sequence[Sentence]) -> Iterator[Action]:
    forms = {
        Verb.RETRY: "Send it again, from the start.",
        Verb.MARK_SENT: "Record that it was sent, if its vendor says so.",
        Verb.CANCEL: "Do not send it.",
    }
    if status_of(stored.document) is Status.UNCERTAIN:
        forms[Verb.RETRY] = "Send it again: its readers may get it twice."
    if stored.document.get("unknowns") or stored.document.get("pin"):
        forms[Verb.CANCEL] = "Do not send it again. It becomes uncertain: a copy may have left."
    reason = reason_of(stored.document)
    if reason is Reason.SUPPRESSED:
        yield Action("mailqueue suppress list ADDRESS", "See why a recipient is on the list.")
        forms[Verb.RETRY] = "Send it, once a recipient is off the list: it fails again before."
    for verb, form in forms.items():
        if interventions.obstacle(verb, stored) is None:
            yield Action(f"mailqueue {verb} {stored.id}", form)
    yield from dict.fromkeys(action for sentence in outlook for action in sentence.actions)
    states = {text(each.get("state")) for each in objects(stored.document.get("callbacks"))}
    if states & {callbacks.FAILED, callbacks.GONE}:
        yield Action(f"mailqueue callbacks retry {stored.id}", "Tell the application again.")
    if reason is Reason.UNREADABLE or outlook == (Sentence(DAMAGED),):
        yield Action("mailqueue audit", "See which field of the document is damaged.")

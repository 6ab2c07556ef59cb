"""The story of one e-mail, and its content behind "show".

Decides: what a person sees of an e-mail. Addresses, the subject, the body, files and a vendor's own
words are content: only ``content`` and ``html`` show them, to requests of our own pages, and the
log says what was shown to whom. They are no POST, since they change nothing: who may only look may
look at them too.

Promises: a body of HTML is shown in a frame of its own. In it no script runs, no link leads
anywhere, nothing is loaded, and no connection is made: its sender does not learn that somebody
looked.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import ObjectId

from mailqueue.dashboard.actions import TITLES, UNNAMED
from mailqueue.dashboard.pages import Page, PageRequest, Raw, Redirect, Refusal, not_found
from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.logs import event
from mailqueue.monitoring.conditions import Conditions
from mailqueue.monitoring.explanation import explain
from mailqueue.store import ids
from mailqueue.store.document import Document, Stored
from mailqueue.store.interventions import Verb, obstacle

_log = logging.getLogger(__name__)
_PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}
_PEOPLE = {"from": "From", "to": "To", "cc": "Cc", "bcc": "Bcc", "reply_to": "Reply-To"}

SANDBOX: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none';"
        " frame-ancestors 'self'; base-uri 'none'; sandbox"
    ),
    "x-frame-options": "SAMEORIGIN",
    "x-dns-prefetch-control": "off",
    "referrer-policy": "no-referrer",
}
"""Of a body of HTML: by whoever it is asked for, it is a document without rights."""
# A policy keeps a browser from asking another server, yet not from connecting to it beforehand:
# Chromium does so for these elements, and when somebody presses a link (in Firefox, each element of
# MathML may be one). So they get a name that means nothing. What follows the name is what ends it
# for a browser's parser, too.
_CONNECTING = re.compile(r"(</?)(?=(?:a|area|link|i?frame|math)[\s/>])", re.IGNORECASE)


def page(request: PageRequest) -> Page | Redirect:
    """``GET /emails/{id}``."""
    return _story(request, _find(request), content=False)


def content(request: PageRequest) -> Page:
    """``GET /emails/{id}/content``: with all that is in it."""
    _check_own(request)
    stored = _find(request)
    _log_shown(request, stored, "message")
    return _story(request, stored, content=True)


def html(request: PageRequest) -> Raw:
    """``GET /emails/{id}/html``: its body of HTML, for the frame of the page before."""
    _check_own(request)
    stored = _find(request)
    body = _mapping(stored.document.get("email")).get("html")
    if not isinstance(body, str) or not body:
        raise not_found("This e-mail has no body of HTML.")
    _log_shown(request, stored, "html")
    harmless = _CONNECTING.sub(r"\1x-", body)
    return Raw(harmless.encode("utf-8", "replace"), "text/html; charset=utf-8", SANDBOX)


def _check_own(request: PageRequest) -> None:
    """Raises ``Refusal`` if another site led here: nobody has an e-mail shown by its link."""
    if not request.is_own:
        email_id = _id(request)
        back = (f"/emails/{email_id}", "To the e-mail")
        text = "Another site led here. Its content is shown only where you ask for it yourself."
        raise Refusal(403, "Not from here", text, back=back)


def _log_shown(request: PageRequest, stored: Stored, part: str) -> None:
    by = request.user.name or UNNAMED
    event(_log, logging.INFO, "content.shown", id=stored.id, part=part, by=by)


def _id(request: PageRequest) -> ObjectId:
    try:
        return ids.parse(request.path["id"])
    except ValueError:
        raise not_found("An e-mail's id has 24 hexadecimal characters, or is a UUID.") from None


def _find(request: PageRequest) -> Stored:
    stored = request.backend.store.find_whole(_id(request))
    if stored is None:
        raise not_found("There is no such e-mail. It may have been removed since it ended.")
    return stored


def _story(request: PageRequest, stored: Stored, *, content: bool) -> Page:
    document, config, store = stored.document, request.backend.config, request.backend.store
    explanation = explain(
        stored,
        config,
        Conditions.read(config, store, stored, request.backend.queue_error),
        events=request.backend.events.of_email(stored.id),
        content=content,
    )
    email = _mapping(document.get("email"))
    values = {
        "now": stored.now,
        "id": str(stored.id),
        "status": explanation.status,
        "explanation": explanation,
        "facts": _facts(document),
        "attempts": [_attempt(line, content=content) for line in _objects(document, "attempts")],
        "callbacks": [_callback(each) for each in _objects(document, "callbacks")],
        "verbs": _verbs(request, stored),
        "has_content": bool(email) and document.get("content_dropped_at") is None,
        "content": _content(document, email) if content else None,
    }
    return Page("email.html", f"E-mail {stored.id}", values, "emails")


def _verbs(request: PageRequest, stored: Stored) -> dict[Verb, str]:
    """What this user may do with it now."""
    if not request.user.may_act:
        return {}
    return {verb: TITLES[verb] for verb in Verb if obstacle(verb, stored) is None}


# What is shown to everybody -----------------------------------------------------------------------


def _facts(document: Document) -> dict[str, Any]:
    """Of the whole e-mail; times are times."""
    tags = _mapping(document.get("email")).get("tags")
    facts = {
        "Mode": document.get("env"),
        "Priority": _PRIORITY_NAMES.get(_hashable(document.get("priority"))),
        "Tags": ", ".join(map(str, tags)) if isinstance(tags, list) else "",
        "Vendors allowed": ", ".join(map(str, _list(document.get("route")))),
        "Vendor": document.get("vendor"),
        "Its id at the vendor": document.get("vendor_message_id"),
        "Message-ID": document.get("message_id"),
        "Request id": document.get("request_id"),
        "Held by": document.get("hold"),
        "Stored": document.get("created_at"),
        "Send at": document.get("send_at"),
        "Expires": document.get("expires_at"),
        "Sent": document.get("sent_at"),
        "Last change": document.get("updated_at"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _attempt(line: Document, *, content: bool) -> dict[str, Any]:
    start, end = line.get("started_at"), line.get("ended_at")
    took = None
    if isinstance(start, datetime) and isinstance(end, datetime):
        took = round((end - start).total_seconds() * 1000)
    row = {name: line.get(name) for name in ("n", "vendor", "outcome", "code")}
    row |= {"started_at": start, "took": took}
    if content:
        row["recipients"] = [
            (name, ", ".join(map(str, people)))
            for name in ("refused", "pending", "suppressed")
            if (people := _list(line.get(name)))
        ]
    return row


def _callback(each: Document) -> dict[str, Any]:
    return {name: each.get(name) for name in ("type", "state", "tries", "code", "due_at", "at")}


# What is content ----------------------------------------------------------------------------------


def _content(document: Document, email: Document) -> dict[str, Any]:
    people = {label: _list(email.get(name)) for name, label in _PEOPLE.items()}
    envelope = _mapping(email.get("envelope"))
    people |= {"Envelope from": _list(envelope.get("sender"))}
    people |= {"Envelope to": _list(envelope.get("recipients"))}
    lines = {name: ", ".join(map(str, each)) for name, each in people.items() if each}
    lines |= {"Subject": email.get("subject", "")}
    for name in ("headers", "metadata"):
        lines |= {f"{name}: {key}": value for key, value in _mapping(email.get(name)).items()}
    own = {"Idempotency key": "idempotency_key", "Callback URL": "callback_url"}
    lines |= {label: document[name] for label, name in own.items() if document.get(name)}
    return {
        "lines": lines,
        "text": email.get("text"),
        "has_html": bool(email.get("html")),
        "files": [
            _file(each)
            for name in ("attachments", "alternatives")
            for each in _objects(email, name)
        ],
    }


def _file(each: Document) -> dict[str, Any]:
    octets = each.get("content")
    size = len(octets) if isinstance(octets, bytes | str) else None
    return {"name": each.get("filename"), "type": each.get("content_type"), "size": size}


# Reading what may be damaged ----------------------------------------------------------------------


def _mapping(value: Any) -> Document:
    return value if isinstance(value, Mapping) else {}


def _objects(document: Document, name: str) -> list[Document]:
    return [each for each in _list(document.get(name)) if isinstance(each, Mapping)]


def _list(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) else []


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int) else None

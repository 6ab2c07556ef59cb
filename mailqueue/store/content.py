"""Dropping what an e-mail says, once it is not needed any more. Pure.

Decides: what the content is: the bodies and the files. Who it is from and to, its subject and its
labels stay, and so does ``content_hash``, by which an idempotency key still tells that a call is
the same.

Assumes: an e-mail that has ended is not sent again, except by an operator's retry, whose guard asks
for the content.

Promises: both updates change nothing the second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bson import ObjectId

from mailqueue.lifecycle.outcomes import Status
from mailqueue.store.transitions import Filter, Pipeline, Write

CONTENT = ("text", "html", "alternatives", "attachments")
DROPPED_AT = "content_dropped_at"
HAS_CONTENT: Filter = {DROPPED_AT: None}
_IS_WHOLE = {"$eq": [{"$ifNull": [f"${DROPPED_AT}", None]}, None]}


def _without_content(email: Any) -> Any:
    for name in CONTENT:
        email = {"$unsetField": {"field": name, "input": email}}
    return email


def _dropped_if(condition: Any) -> Pipeline:
    """A step of an update. What is no object is damage, and stays for a person to look at."""
    drops = {"$and": [condition, _IS_WHOLE, {"$eq": [{"$type": "$email"}, "object"]}]}
    fields = {"email": _without_content("$email"), DROPPED_AT: "$$NOW"}
    return [
        {
            "$set": {
                name: {"$cond": [drops, value, {"$ifNull": [f"${name}", "$$REMOVE"]}]}
                for name, value in fields.items()
            }
        }
    ]


# Drop at the end: any → sent without its content --------------------------------------------------
#
# Rule: with ``retention.content: "until_sent"``, whatever update makes an e-mail ``sent`` has this
# for its last step. So no ``sent`` e-mail is ever stored with its content, not for a moment.
#
#   before  {status: "sending", email: {to: ["b@x.org"], subject: "Hi", text: "Hello"}}
#   after   {status: "sent", email: {to: ["b@x.org"], subject: "Hi"}, content_dropped_at: NOW}

DROP_IF_SENT = _dropped_if({"$eq": ["$status", Status.SENT.value]})

# Drop later: ended → the same without its content -------------------------------------------------
#
# Rule: with ``retention.content_days``, an e-mail that ended as ``status`` so long ago loses its
# content. ``updated_at`` stays: from there ``sent_days`` and ``failed_days`` count. A retry in
# between has made it ``queued``, and it keeps what it says.
#
#   before  {status: "uncertain", email: {to: ["b@x.org"], text: "Hello"}, updated_at: T}
#   after   {status: "uncertain", email: {to: ["b@x.org"]}, updated_at: T, content_dropped_at: NOW}


def drop_write(ids: Sequence[ObjectId], status: Status, match: Filter) -> Write:
    """Drop the content of these, if they still are ``status`` and ``match``."""
    guard = {**match, "_id": {"$in": list(ids)}, "status": status.value, **HAS_CONTENT}
    return guard, _dropped_if(True)

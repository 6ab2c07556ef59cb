"""E-mails as they stand in MongoDB, in any state, stored at any time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection

from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.message import Email
from mailqueue.message.message import content_hash
from mailqueue.store import document, ids
from mailqueue.store.document import PRODUCTION

Document = dict[str, Any]
CONTENT: Mapping[str, Any] = {
    "from": "Shop <shop@example.com>",
    "to": ["secret.person@example.org"],
    "subject": "A secret subject",
    "text": "A secret text",
    "html": "<p>A secret body</p>",
    "attachments": [
        {"filename": "secret-file.pdf", "content": b"x" * 1234, "content_type": "application/pdf"}
    ],
}
SECRETS = ("secret.person@example.org", "shop@example.com", "A secret subject", "A secret text")


def email(
    minutes: float = 0, *, content: Mapping[str, Any] = CONTENT, tags: Sequence[str] = (), **f: Any
) -> Document:
    """A document that was stored so many minutes ago; the fields replace those of a new one."""
    at = datetime.now(UTC) - timedelta(minutes=minutes)
    mapping = Email.of({**content, "tags": list(tags)}).to_mapping()  # type: ignore[arg-type]  # as a mapping
    email_id = ids.new()
    made = document.new(
        mapping,
        email_id=email_id,
        message_id=f"<{email_id}@example.com>",
        env=PRODUCTION,
        content_hash=content_hash(mapping),
        priority=PRIORITIES["normal"],
        now=at,
        nonce=ids.new(),
    )
    return made | f


def failed(minutes: float = 0, **fields: Any) -> Document:
    """One that a vendor refused."""
    end: Document = {"status": "failed", "reason": "rejected", "due_at": None}
    return email(minutes, **(end | tried("first", "rejected", "550", minutes) | fields))


def uncertain(minutes: float = 0, **fields: Any) -> Document:
    """One of which nobody knows whether a copy left."""
    end: Document = {"status": "uncertain", "reason": "unknown", "unknowns": 1, "due_at": None}
    return email(minutes, **(end | tried("first", "unknown", "", minutes) | fields))


def tried(vendor: str, outcome: str, code: str, minutes: float, **line: Any) -> Document:
    """The ledger of one attempt."""
    at = datetime.now(UTC) - timedelta(minutes=minutes)
    times = {"started_at": at, "ended_at": at + timedelta(milliseconds=420)}
    attempt = {"n": 1, "token": 1, "vendor": vendor, "outcome": outcome, "code": code}
    return {"attempts": [{**attempt, **times, **line}], "lease": {"token": 1}, "counted": 1}


def store(emails: Collection[Document], *documents: Document) -> list[ObjectId]:
    """Store them; returns their ids."""
    return list(emails.insert_many(list(documents)).inserted_ids)


def many(number: int, step: timedelta = timedelta(seconds=1)) -> Iterator[Document]:
    """E-mails with ids and times in order, the oldest first; each hundredth has failed."""
    begin = datetime.now(UTC).replace(microsecond=0) - number * step
    for n in range(number):
        at = begin + n * step
        end = {"status": "failed", "reason": "rejected"} if n % 100 == 0 else {"status": "sent"}
        yield {
            "_id": ObjectId(f"{n:024x}"),
            **end,
            "env": PRODUCTION,
            "created_at": at,
            "updated_at": at,
            "priority": PRIORITIES["normal"],
            "email": {"tags": ["news"]},
            "attempts": [],
        }

"""From what an application hands in to the document that is stored.

Decides: what is refused, and under which name. Nothing is stored here, so that all of a call's
e-mails are known to be good before the first is written.

Promises: every refusal is an ``InvalidEmail`` that names the field, and quotes nothing of it. The
same idempotency key twice in one call is one e-mail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

from bson import ObjectId

from mailqueue import document, message
from mailqueue.config import Config
from mailqueue.errors import InvalidEmail
from mailqueue.message import Email
from mailqueue.record import PRIORITIES
from mailqueue.vendors import limits

KEY_LENGTH = 512

Sendable = Email | Mapping[str, Any] | EmailMessage


@dataclass(frozen=True, slots=True)
class Terms:
    """How e-mails are to be sent: how urgently, not before when, and never from when on."""

    priority: str = "normal"
    send_at: datetime | None = None
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if str(self.priority) not in PRIORITIES:  # str(): a list cannot be looked up
            raise InvalidEmail("priority", f"must be one of {', '.join(PRIORITIES)}")
        for name in ("send_at", "expires_at"):
            value = getattr(self, name)
            if value is not None and getattr(value, "tzinfo", None) is None:
                raise InvalidEmail(name, "must be an aware datetime")
        both = self.send_at is not None and self.expires_at is not None
        if both and self.expires_at <= self.send_at:  # type: ignore[operator]  # neither is None
            raise InvalidEmail("expires_at", "must be later than send_at")


class Intake:
    """Makes the documents of one producer."""

    def __init__(self, config: Config, env: str) -> None:
        self._config = config
        self._env = env

    def documents(
        self, emails: Sequence[Sendable], terms: Terms, keys: Sequence[str | None] | None
    ) -> list[dict[str, Any]]:
        """The documents of e-mails sent together, all of them good."""
        keys = [None] * len(emails) if keys is None else keys
        if len(keys) != len(emails):
            raise InvalidEmail("idempotency_keys", "needs one entry for each e-mail")
        made = []
        for index, (email, key) in enumerate(zip(emails, keys, strict=True)):
            try:
                made.append(self.document(email, terms, key))
            except InvalidEmail as error:
                raise InvalidEmail(error.field, error.problem, index) from None
        _share_ids(made)
        return made

    def document(self, given: Sendable, terms: Terms, key: str | None) -> dict[str, Any]:
        """The document of one e-mail."""
        email = Email.of(given)
        mapping = email.to_mapping()
        message.check_size(message.size(mapping), self._config.limits.max_size)
        if uncarried := limits.nobody_carries(self._config.vendors, email):
            raise InvalidEmail("email", uncarried)
        _check_key(key)
        email_id = ObjectId()
        return document.new(
            mapping,
            email_id=email_id,
            message_id=f"<{email_id}@{email.from_.ascii.rpartition('@')[2]}>",
            env=self._env,
            content_hash=message.content_hash(mapping),
            priority=PRIORITIES[terms.priority],
            now=datetime.now(UTC),
            send_at=terms.send_at,
            expires_at=terms.expires_at,
            idempotency_key=key,
        )


def _share_ids(made: Sequence[dict[str, Any]]) -> None:
    """The same key twice in one call is one e-mail; with other content it is refused."""
    first: dict[str, dict[str, Any]] = {}
    for index, one in enumerate(made):
        if "idempotency_key" in one:
            other = first.setdefault(one["idempotency_key"], one)
            if other["content_hash"] != one["content_hash"]:
                problem = "is given twice for different contents"
                raise InvalidEmail("idempotency_key", problem, index)
            one["_id"] = other["_id"]


def _check_key(key: str | None) -> None:
    given: object = key
    if given is None:
        return
    if not isinstance(given, str) or not 0 < len(given) <= KEY_LENGTH:
        raise InvalidEmail("idempotency_key", f"must be a string of 1 to {KEY_LENGTH} characters")
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in given):
        raise InvalidEmail("idempotency_key", "contains NUL or a lone surrogate")

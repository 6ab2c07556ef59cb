"""From what an application hands in to the document that is stored.

Decides: what is refused, and under which name. An e-mail is read in the thread of its caller; the
rest is done for all that are stored together. Nothing is stored here, so that all of a call's
e-mails are known to be good before the first is written.

Promises: every refusal is an ``InvalidEmail`` that names the field, and quotes nothing of it. The
same idempotency key twice in one call is one e-mail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

from bson import ObjectId

from mailqueue.config import Config
from mailqueue.errors import InvalidEmail
from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.message import Email, EmailDict, message
from mailqueue.store import document, ids
from mailqueue.vendors import limits

KEY_LENGTH = 512
PAGE = 100
LATEST = datetime(9999, 12, 31, tzinfo=UTC)  # what is added to a time must fit, too
_set = object.__setattr__  # of what is frozen once it is made

Sendable = Email | EmailDict | EmailMessage


@dataclass(frozen=True, slots=True)
class SendOptions:
    """How e-mails are to be sent: how urgently, not before when, and never from when on.

    What is given may be anything, and is normal from here on: times are in UTC, in milliseconds as
    MongoDB keeps them.
    """

    priority: str = "normal"
    send_at: datetime | None = None
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        given: object = self.priority
        if not isinstance(given, str) or (priority := str.__str__(given)) not in PRIORITIES:
            raise InvalidEmail("priority", f"must be one of {', '.join(PRIORITIES)}")
        send_at, expires_at = _time(self.send_at, "send_at"), _time(self.expires_at, "expires_at")
        if send_at is not None and expires_at is not None and expires_at <= send_at:
            raise InvalidEmail("expires_at", "must be later than send_at")
        _set(self, "priority", priority)
        _set(self, "send_at", send_at)
        _set(self, "expires_at", expires_at)


def _time(given: object, field: str) -> datetime | None:
    """The moment in UTC. Its class and its zone may be the caller's own, and raise anything."""
    if given is None:
        return None
    try:
        if not isinstance(given, datetime) or given.utcoffset() is None:
            raise InvalidEmail(field, "must be an aware datetime: one with a time zone")
        moment = given.astimezone(UTC)
        thousands = moment.microsecond // 1000 * 1000
        time = datetime.combine(moment.date(), moment.time().replace(microsecond=thousands), UTC)
    except InvalidEmail:
        raise
    except OverflowError:
        time = LATEST
    except Exception:  # noqa: BLE001  # whatever it is, it is in what was given
        raise InvalidEmail(field, "is no moment in UTC: its time zone gives no offset") from None
    if time >= LATEST:
        what = "send it without" if field == "expires_at" else "give an earlier one"
        raise InvalidEmail(field, f"is beyond what a date can hold: {what}")
    return time


@dataclass(slots=True)
class Submission:
    """An e-mail as its caller handed it in, read and valid.

    ``id`` is the one it will have, ``nonce`` tells that it is the one of this call.
    """

    email: Email
    terms: SendOptions
    key: str | None
    id: ObjectId
    nonce: ObjectId

    @property
    def weight(self) -> int:
        """About how many bytes it is."""
        email = self.email
        weight = _octets(email.text or "") + _octets(email.html or "")
        if email.metadata:
            weight += sum(map(_octets, email.metadata.values()))
        if email.vendor_options:
            weight += _octets(repr(email.vendor_options))
        for part in email.alternatives + email.attachments:
            weight += len(part.content)
        return weight


def _octets(text: str) -> int:
    """At most so many in UTF-8, nearly."""
    return len(text) if text.isascii() else 3 * len(text)


class Intake:
    """Makes the documents of one producer. Any thread may call."""

    def __init__(self, config: Config, env: str) -> None:
        self._config = config
        self._env = env

    def read(self, given: Sendable, terms: SendOptions, key: str | None) -> Submission:
        """One e-mail, in the thread of the caller, whose objects no other touches."""
        return Submission(Email.of(given), terms, _key(key), *ids.several(2))

    def read_all(
        self, given: Sequence[Sendable], terms: SendOptions, keys: Sequence[str | None] | None
    ) -> list[Submission]:
        """E-mails sent together."""
        keys = [None] * len(given) if keys is None else keys
        if len(keys) != len(given):
            raise InvalidEmail("idempotency_keys", "needs one entry for each e-mail")
        drafts: list[Submission] = []
        try:
            for email, key in zip(given, keys, strict=True):
                drafts.append(self.read(email, terms, key))
        except InvalidEmail as error:
            raise InvalidEmail(error.field, error.problem, len(drafts)) from None
        return drafts

    def document(self, draft: Submission) -> dict[str, Any]:
        """The document of one e-mail; raises if it is refused."""
        (made,) = self.documents([draft])
        if isinstance(made, InvalidEmail):
            raise made
        return made

    def all_good(self, drafts: Sequence[Submission]) -> list[dict[str, Any]]:
        """The documents of e-mails sent together; raises if one is refused."""
        made: list[dict[str, Any]] = []
        for page in range(0, len(drafts), PAGE):
            for one in self.documents(drafts[page : page + PAGE]):
                if isinstance(one, InvalidEmail):
                    raise InvalidEmail(one.field, one.problem, len(made))
                made.append(one)
        _share(made)
        return made

    def documents(self, drafts: Sequence[Submission]) -> list[dict[str, Any] | InvalidEmail]:
        """The document of each e-mail, or why it is refused.

        One step for all, then the next: half the time of one e-mail after the other, since the
        processor keeps the code of a step at hand.
        """
        mappings = [draft.email.to_mapping() for draft in drafts]
        sizes = [message.size(mapping) for mapping in mappings]
        uncarried = [limits.nobody_carries(self._config.vendors, d.email) for d in drafts]
        hashes = [message.content_hash(mapping) for mapping in mappings]
        refusals = map(self._refusal, sizes, uncarried)
        now = datetime.now(UTC)
        return [
            refusal or self._document(draft, mapping, content_hash, now)
            for draft, mapping, content_hash, refusal in zip(
                drafts, mappings, hashes, refusals, strict=True
            )
        ]

    def _refusal(self, size: int, uncarried: str | None) -> InvalidEmail | None:
        """Why an e-mail that is valid cannot be sent from here."""
        most = self._config.limits.max_size
        if size > most:
            problem = f"{size} bytes are more than limits.max_size ({most})"
            return InvalidEmail("email", problem)
        return InvalidEmail("email", uncarried) if uncarried else None

    def _document(
        self, draft: Submission, mapping: dict[str, Any], content_hash: str, now: datetime
    ) -> dict[str, Any]:
        return document.new(
            mapping,
            email_id=draft.id,
            message_id=draft.email.message_id or _message_id(draft),
            env=self._env,
            content_hash=content_hash,
            priority=PRIORITIES[draft.terms.priority],
            now=now,
            send_at=draft.terms.send_at,
            expires_at=draft.terms.expires_at,
            idempotency_key=draft.key,
            nonce=draft.nonce,
        )


def _message_id(draft: Submission) -> str:
    return f"<{draft.id}@{draft.email.from_.ascii.rpartition('@')[2]}>"


def _share(made: list[dict[str, Any]]) -> None:
    """The same key twice in one call is one document; with other content it is refused."""
    first: dict[str, dict[str, Any]] = {}
    for index, one in enumerate(made):
        if "idempotency_key" in one:
            other = first.setdefault(one["idempotency_key"], one)
            if other["content_hash"] != one["content_hash"]:
                problem = "is given twice for different contents"
                raise InvalidEmail("idempotency_key", problem, index)
            made[index] = other


def _key(key: str | None) -> str | None:
    given: object = key
    if given is None:
        return None
    if not isinstance(given, str) or not 0 < len(given) <= KEY_LENGTH:
        raise InvalidEmail("idempotency_key", f"must be a string of 1 to {KEY_LENGTH} characters")
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in given):
        raise InvalidEmail("idempotency_key", "contains NUL or a lone surrogate")
    return str.__str__(given)

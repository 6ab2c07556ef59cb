"""What is sent: the e-mail as a value, valid from the moment it exists.

Decides: what a legal e-mail is. Every refusal is ``InvalidEmail`` with the field's name and never
with what stood in it.

May assume: in ``Email.from_document`` that the mapping came from ``to_mapping`` (the consumer's hot
path checks nothing); everywhere else nothing.

Promises: an ``Email`` is complete, safe to put in headers, and equal input gives an equal mapping
and ``content_hash`` on every host. Chosen where the standards leave room:

* ``text=""`` is a body (people do send empty ones); neither text nor html is refused.
* A display name that is already encoded (as ``formataddr`` makes it) is decoded; subjects and
  other headers are text, and arrive as the very text that was given.
* Reserved are the headers that fields or servers make: see ``RESERVED``. ``Message-ID`` may be
  given among the headers; it is ``message_id`` here, and no part of the content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Required, TypedDict

from mailqueue.errors import InvalidEmail, did_you_mean
from mailqueue.message import structured
from mailqueue.message.fields import READERS, RESERVED, SHOWN_KEY, file_mapping
from mailqueue.message.headers import Address, header_text, mailboxes, unstructured
from mailqueue.message.mime import Alternative, Attachment, write
from mailqueue.message.stdlib_message import read
from mailqueue.message.structured import MESSAGE_ID

if TYPE_CHECKING:  # annotations only; importing these would cost more than this module
    from datetime import datetime
    from email.message import Message

__all__ = ["RESERVED", "Address", "Alternative", "AlternativeDict", "Attachment", "AttachmentDict"]
__all__ += ["Email", "EmailDict", "mime"]

MAX_RECIPIENTS = 1000
_READERS = [(f, "from_" if f == "from" else f, reader) for f, reader in READERS.items()]
_set = object.__setattr__  # an Email is frozen once it is made


Mailbox = str | Address | tuple[str | None, str]
"""One address: text (``Ann <ann@example.org>``), an ``Address``, or a pair of name and address."""
Mailboxes = Mailbox | Sequence[Mailbox]
Octets = bytes | bytearray | memoryview


class AttachmentDict(TypedDict, total=False):
    """An ``Attachment`` as a mapping."""

    content: Required[Octets]
    filename: str | None
    content_type: str | None
    content_id: str | None


class AlternativeDict(TypedDict):
    """An ``Alternative`` as a mapping; text is kept as UTF-8."""

    content: str | Octets
    content_type: str


_From = TypedDict("_From", {"from": Required[Mailbox]}, total=False)  # a word of Python


class EmailDict(_From, total=False):
    """The mapping that ``send()`` takes. A type checker finds a misspelt key in it.

    What is None counts as absent. A mapping whose keys a type checker cannot know (JSON of others,
    say) is made an e-mail by ``Email.from_mapping``.
    """

    to: Mailboxes | None
    cc: Mailboxes | None
    bcc: Mailboxes | None
    reply_to: Mailboxes | None
    subject: str | None
    text: str | None
    html: str | None
    alternatives: Sequence[Alternative | AlternativeDict] | None
    headers: Mapping[str, str] | None
    attachments: Sequence[Attachment | AttachmentDict] | None
    tags: str | Sequence[str] | None
    metadata: Mapping[str, str | float | bool] | None
    vendor_options: Mapping[str, Mapping[str, Any]] | None


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Email:
    """A valid e-mail. Raises ``InvalidEmail``, which names the field.

    ``message_id`` may as well stand among the headers; each attempt hands it to the vendor.
    """

    from_: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    reply_to: tuple[Address, ...]
    subject: str
    text: str | None
    html: str | None
    alternatives: tuple[Alternative, ...]
    headers: Mapping[str, str]
    message_id: str | None
    attachments: tuple[Attachment, ...]
    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    vendor_options: Mapping[str, Mapping[str, Any]]

    def __init__(
        self,
        *,
        from_: Mailbox,
        to: Mailboxes | None = None,
        cc: Mailboxes | None = None,
        bcc: Mailboxes | None = None,
        reply_to: Mailboxes | None = None,
        subject: str | None = None,
        text: str | None = None,
        html: str | None = None,
        alternatives: Sequence[Alternative | AlternativeDict] | None = None,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        attachments: Sequence[Attachment | AttachmentDict] | None = None,
        tags: str | Sequence[str] | None = None,
        metadata: Mapping[str, str | float | bool] | None = None,
        vendor_options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        if message_id is not None:
            headers = {**(headers or {}), MESSAGE_ID: message_id}
        fields: EmailDict = {
            "from": from_,
            "to": to,
            "cc": cc,
            "bcc": bcc,
            "reply_to": reply_to,
            "subject": subject,
            "text": text,
            "html": html,
            "alternatives": alternatives,
            "headers": headers,
            "attachments": attachments,
            "tags": tags,
            "metadata": metadata,
            "vendor_options": vendor_options,
        }
        self._read(fields)

    def _read(self, given: Mapping[Any, Any]) -> None:
        for key in given.keys() - READERS.keys():
            if not isinstance(key, str) or not SHOWN_KEY.fullmatch(key):
                raise InvalidEmail("email", "unknown key")
            raise InvalidEmail(key, "unknown key" + did_you_mean(key, READERS))
        for field, attribute, reader in _READERS:
            _set(self, attribute, reader(given.get(field), field))
        _take_message_id(self)
        if self.text is None and self.html is None:
            raise InvalidEmail("text", "neither text nor html is given")
        if not 0 < self.entries <= MAX_RECIPIENTS:
            raise InvalidEmail("to", f"{self.entries} recipients: must be 1 to {MAX_RECIPIENTS}")

    def __repr__(self) -> str:
        return f"Email({len(self.recipients)} recipients, {len(self.attachments)} attachments)"

    @classmethod
    def of(cls, email: Email | EmailDict | Message[Any, Any]) -> Email:
        """Whatever ``send()`` takes."""
        if isinstance(email, Email):
            return email
        return cls.from_mapping(email) if isinstance(email, Mapping) else cls.from_message(email)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Email:
        """From the keys of ``EmailDict``, whatever a type checker knows of the mapping."""
        email = object.__new__(cls)
        email._read(mapping)
        return email

    @classmethod
    def from_message(cls, message: Message[Any, Any]) -> Email:
        """From a stdlib ``EmailMessage`` (or an older ``Message``)."""
        return cls.from_mapping(read(message))

    @classmethod
    def from_document(cls, mapping: Mapping[str, Any]) -> Email:
        """From what ``to_mapping`` gave: fast, unchecked."""
        email = object.__new__(cls)
        _set(email, "from_", Address.trusted(mapping["from"]))
        for field in ("to", "cc", "bcc", "reply_to"):
            _set(email, field, tuple(map(Address.trusted, mapping.get(field, ()))))
        for field in ("text", "html"):
            _set(email, field, mapping.get(field))
        for field in ("headers", "metadata", "vendor_options"):
            _set(email, field, mapping.get(field, {}))
        _take_message_id(email)
        files = mapping.get("attachments", ())
        _set(email, "attachments", tuple(Attachment(**file) for file in files))
        forms = mapping.get("alternatives", ())
        _set(email, "alternatives", tuple(Alternative(**form) for form in forms))
        _set(email, "subject", mapping.get("subject", ""))
        _set(email, "tags", tuple(mapping.get("tags", ())))
        return email

    def to_mapping(self) -> dict[str, Any]:
        """The mapping that ``send()`` takes and MongoDB stores; what is empty is left out."""
        mapping: dict[str, Any] = {"from": str(self.from_)}
        for field, form in _STORED.items():
            value = getattr(self, field)
            if value:
                mapping[field] = form(value)
        if self.message_id is not None:
            mapping["headers"] = {**self.headers, MESSAGE_ID: self.message_id}
        if self.text is not None:
            mapping["text"] = self.text
        if self.html is not None:
            mapping["html"] = self.html
        return mapping

    @property
    def entries(self) -> int:
        """How many entries to, cc and bcc have, the same mailbox as often as it is there."""
        return len(self.to) + len(self.cc) + len(self.bcc)

    @property
    def people(self) -> tuple[Address, ...]:
        """Everyone who is named: the sender, the recipients, and who is to get the answers."""
        return (self.from_, *self.to, *self.cc, *self.bcc, *self.reply_to)

    @property
    def recipients(self) -> tuple[Address, ...]:
        """Everyone in to, cc and bcc, each mailbox once, in this order."""
        return tuple(person for people in self.unique_recipients().values() for person in people)

    def unique_recipients(self, *, ignore_case: bool = False) -> dict[str, list[Address]]:
        """To, cc and bcc, each mailbox only where it is shown first; no empty ones.

        What a local part means is the receiving server's own (RFC 5321, 2.4): ``Bob@`` and ``bob@``
        are two mailboxes, to an SMTP server and in what is recorded of each. ``ignore_case``: they
        are one, as to every vendor's API, and so are they counted where a vendor has a limit.
        """
        seen: set[str] = set()
        fields: dict[str, list[Address]] = {}
        for name, people in (("to", self.to), ("cc", self.cc), ("bcc", self.bcc)):
            for person in people:
                identity = person.identity.lower() if ignore_case else person.identity
                if identity not in seen:
                    seen.add(identity)
                    fields.setdefault(name, []).append(person)
        return fields

    def content_hash(self) -> str:
        """SHA-256 of what is sent; the order of headers, metadata and options does not matter."""
        return content_hash(self.to_mapping())

    def size(self) -> int:
        """Bytes of the e-mail in MongoDB, exactly: this is what ``limits.max_size`` bounds."""
        return size(self.to_mapping())


def _texts(addresses: Iterable[Address]) -> list[str]:
    return list(map(str, addresses))


def _files(files: Iterable[Attachment]) -> list[dict[str, Any]]:
    return [file_mapping(file) for file in files]


def _forms(forms: Iterable[Alternative]) -> list[dict[str, Any]]:
    return [{"content": form.content, "content_type": form.content_type} for form in forms]


_STORED: Mapping[str, Callable[[Any], object]] = {  # as what, where there is anything
    **dict.fromkeys(("to", "cc", "bcc", "reply_to"), _texts),
    "subject": str,
    **dict.fromkeys(("headers", "metadata", "vendor_options"), dict),
    "tags": list,
    "attachments": _files,
    "alternatives": _forms,
}


def _take_message_id(email: Email) -> None:
    """The e-mail's own Message-ID is none of its headers: each attempt hands it to the vendor."""
    message_id = email.headers.get(MESSAGE_ID)
    _set(email, "message_id", message_id)
    if message_id is not None:
        _set(email, "headers", {n: v for n, v in email.headers.items() if n != MESSAGE_ID})


def content_hash(mapping: Mapping[str, Any]) -> str:
    """The hash of an e-mail, by what its ``to_mapping`` gave.

    Its Message-ID is no part of it: many programs make a new one for each try of a call.
    """
    headers = mapping.get("headers", {})
    if MESSAGE_ID in headers:
        others = {name: value for name, value in headers.items() if name != MESSAGE_ID}
        mapping = {**mapping, "headers": others}
        if not others:
            del mapping["headers"]
    return _digest(_SORTED.encode(mapping).encode())


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


_SORTED = json.JSONEncoder(sort_keys=True, default=_digest)


def size(mapping: Mapping[str, Any]) -> int:
    """The size of an e-mail, by what its ``to_mapping`` gave."""
    import bson  # without "from", which would look the name up each time

    return len(bson.encode(mapping))


def mime(
    email: Email,
    *,
    message_id: str,
    date: datetime | None = None,
    email_id: str | None = None,
    sender: Address | None = None,
) -> bytes:
    """The message for SMTP: no Bcc header, equal bytes for equal arguments.

    ``sender`` replaces the From. Tags, metadata and vendor options have no place in plain MIME.
    """
    message_id = f"<{message_id.strip().strip('<>')}>"
    headers = [*_heading(email, sender or email.from_), ("Message-ID", message_id)]
    if date is not None:
        from email.utils import format_datetime

        headers.append(("Date", format_datetime(date)))
    if email_id is not None:
        headers.append(("X-Mailqueue-Id", email_id))
    headers += _own_headers(email)
    bodies = (email.text, email.html, email.attachments, email.alternatives)
    return write(headers, *bodies, seed=message_id)


def _heading(email: Email, sender: Address) -> Iterator[tuple[str, str]]:
    """The headers of the fields. Values are checked as they were given, before they are encoded."""
    named = (("From", (sender,)), ("To", email.to), ("Cc", email.cc), ("Reply-To", email.reply_to))
    for name, addresses in named:
        for address in addresses:
            header_text(address.name, name.lower().replace("-", "_"))
        if addresses:
            yield name, mailboxes(addresses)
        elif name == "To" and not email.cc:
            yield "To", "undisclosed-recipients:;"
    yield "Subject", unstructured(header_text(email.subject, "subject"))


def _own_headers(email: Email) -> Iterator[tuple[str, str]]:
    for name, value in email.headers.items():
        yield name, structured.wire(name, header_text(value, "headers"))

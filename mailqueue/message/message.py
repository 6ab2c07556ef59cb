"""What an e-mail is: a value that is valid from the moment it exists.

Decides: which fields an e-mail has and what makes it valid as a whole. Each field is checked by its
function in ``fields``. Whatever is refused is ``InvalidEmail`` with the field's name; it quotes no
value.

Assumes: ``Email.from_document`` gets what ``to_mapping`` returned: it is the consumer's hot path
and checks nothing. All else assumes nothing.

Promises: an ``Email`` is complete, its values may stand in headers, and equal input gives an equal
mapping and ``content_hash`` on every host. Where the standards leave room:

* ``text=""`` is a body (people send empty ones); an e-mail without text and html is refused.
* A display name that is already encoded (as ``formataddr`` does) is decoded. Subjects and other
  headers are text, and arrive as the text that was given.
* Headers that mailqueue or a server makes are reserved: see ``fields.RESERVED``. A ``Message-ID``
  may be given among the headers. It is ``message_id`` here, and not part of the content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Required, TypedDict

from mailqueue.errors import InvalidEmail, did_you_mean
from mailqueue.message.addresses import Address
from mailqueue.message.attachments import Alternative, Attachment
from mailqueue.message.envelope import Envelope, normalize
from mailqueue.message.fields import READERS, SHOWN_KEY
from mailqueue.message.structured import MESSAGE_ID

if TYPE_CHECKING:  # importing it would take longer than importing this module
    from email.message import Message

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
    #: Its extension gives the content type that is missing.
    filename: str | None
    content_type: str | None
    #: Printable ASCII without spaces: the HTML shows the file as ``<img src="cid:...">``.
    content_id: str | None


class AlternativeDict(TypedDict):
    """An ``Alternative`` as a mapping; text is stored as UTF-8."""

    content: str | Octets
    #: ``text/calendar; method=REQUEST``, say; not text/plain or text/html.
    content_type: str


# "from" is a keyword of Python, so that only this form of a TypedDict can have it.
EnvelopeDict = TypedDict(
    "EnvelopeDict", {"from": Mailbox | None, "recipients": Mailboxes | None}, total=False
)
"""An ``Envelope`` as a mapping: ``from`` is the bounce address, ``""`` is the null sender."""
_From = TypedDict("_From", {"from": Required[Mailbox]}, total=False)


class EmailDict(_From, total=False):
    """The mapping that ``send()`` takes; a type checker finds a misspelt key in it.

    ``from`` is required, and a recipient, and ``text`` or ``html``. None means absent. Make an
    ``Email.from_mapping`` of a mapping whose keys a type checker cannot know, such as JSON.

    A mailbox is a string (``"ann@example.com"``, ``"Ann <ann@example.com>"``), a pair (``("Ann",
    "ann@example.com")``), or an ``Address``. The vendors have limits of their own: an e-mail that
    no configured vendor can carry is refused.
    """

    #: Up to 1,000 recipients in all; a single mailbox or a list of them.
    to: Mailboxes | None
    cc: Mailboxes | None
    bcc: Mailboxes | None
    reply_to: Mailboxes | None
    #: Who is really sent to, and who hears of bounces, where the headers say something else. Names
    #: are left out.
    envelope: Envelope | EnvelopeDict | None
    subject: str | None
    text: str | None
    html: str | None
    #: Other forms of the same content: an invitation, AMP. Up to 10.
    alternatives: Sequence[Alternative | AlternativeDict] | None
    #: Further headers: ``{"List-Unsubscribe": "<https://example.com/u/1>"}``. Up to 1,000.
    headers: Mapping[str, str] | None
    attachments: Sequence[Attachment | AttachmentDict] | None
    #: Names under which a vendor counts the e-mail in its statistics.
    tags: str | Sequence[str] | None
    #: What a vendor sends back in its events, by name.
    metadata: Mapping[str, str | float | bool] | None
    #: By a vendor's ``name`` in the configuration: what only its API knows.
    vendor_options: Mapping[str, Mapping[str, Any]] | None


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Email:
    """A valid e-mail, frozen. The arguments are those of ``EmailDict``, ``from_`` for ``from``.

    ``message_id`` is the Message-ID that every attempt hands to the vendor; it may also be given
    among the headers. None: it is made from the e-mail's id. Raises ``InvalidEmail``, which names
    the field and quotes nothing. Nothing is stored by making one: ``Producer.send`` stores it.

    ``envelope`` is None unless it differs from the headers: if it names everyone in ``to`` and
    ``cc``, the others whom it names are the ``bcc``, and nothing else is left of it but a bounce
    address. If it leaves someone out, ``bcc`` is empty, and its recipients are all who are sent to.
    """

    from_: Address
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    bcc: tuple[Address, ...]
    reply_to: tuple[Address, ...]
    envelope: Envelope | None
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
        envelope: Envelope | EnvelopeDict | None = None,
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
            "envelope": envelope,
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

    def _read(self, mapping: Mapping[Any, Any]) -> None:
        for key in mapping.keys() - READERS.keys():
            if not isinstance(key, str) or not SHOWN_KEY.fullmatch(key):
                raise InvalidEmail("email", f"has an unknown key: it may have {', '.join(READERS)}")
            raise InvalidEmail(key, "unknown key" + did_you_mean(key, READERS))
        for field, attribute, reader in _READERS:
            _set(self, attribute, reader(mapping.get(field), field))
        _move_message_id(self)
        if self.text is None and self.html is None:
            raise InvalidEmail("text", "is missing: give text or html, which may be empty")
        if self.envelope is not None:
            shown = (*self.to, *self.cc)
            envelope, bcc = normalize(self.envelope, self.from_, shown, self.bcc)
            _set(self, "envelope", envelope)
            _set(self, "bcc", bcc)
        entries = len(self.to) + len(self.cc) + len(self.bcc)
        if entries > MAX_RECIPIENTS or not self.entries:
            count = f"has {entries} recipients, with cc and bcc"
            raise InvalidEmail("to", f"{count}: give 1 to {MAX_RECIPIENTS}")

    def __repr__(self) -> str:
        return f"Email({len(self.recipients)} recipients, {len(self.attachments)} attachments)"

    @classmethod
    def of(cls, email: Email | EmailDict | Message[Any, Any]) -> Email:
        """From anything that ``send()`` takes. Raises ``InvalidEmail``."""
        if isinstance(email, Email):
            return email
        return cls.from_mapping(email) if isinstance(email, Mapping) else cls.from_message(email)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Email:
        """From a mapping whose keys a type checker cannot know, such as JSON.

        Raises ``InvalidEmail``, also for an unknown key.
        """
        email = object.__new__(cls)
        email._read(mapping)
        return email

    @classmethod
    def from_message(
        cls, message: Message[Any, Any], *, envelope: Envelope | EnvelopeDict | None = None
    ) -> Email:
        """From a stdlib ``EmailMessage`` (or an older ``Message``). Raises ``InvalidEmail``.

        ``envelope``: the one that it came in, by SMTP say.
        """
        from mailqueue.message.stdlib_message import read

        return cls.from_mapping({**read(message), "envelope": envelope})

    @classmethod
    def from_document(cls, mapping: Mapping[str, Any]) -> Email:
        """From the result of ``to_mapping``. It is quick because it checks nothing."""
        email = object.__new__(cls)
        _set(email, "from_", Address.from_canonical(mapping["from"]))
        for field in ("to", "cc", "bcc", "reply_to"):
            _set(email, field, tuple(map(Address.from_canonical, mapping.get(field, ()))))
        envelope = mapping.get("envelope")
        _set(email, "envelope", None if envelope is None else Envelope.from_document(envelope))
        for field in ("text", "html"):
            _set(email, field, mapping.get(field))
        for field in ("headers", "metadata", "vendor_options"):
            _set(email, field, mapping.get(field, {}))
        _move_message_id(email)
        files = mapping.get("attachments", ())
        _set(email, "attachments", tuple(Attachment(**file) for file in files))
        forms = mapping.get("alternatives", ())
        _set(email, "alternatives", tuple(Alternative(**form) for form in forms))
        _set(email, "subject", mapping.get("subject", ""))
        _set(email, "tags", tuple(mapping.get("tags", ())))
        return email

    def to_mapping(self) -> dict[str, Any]:
        """The mapping that ``send()`` takes and MongoDB stores; empty fields are left out."""
        mapping: dict[str, Any] = {"from": str(self.from_)}
        for field, to_stored in _STORED.items():
            value = getattr(self, field)
            if value:
                mapping[field] = to_stored(value)
        if self.message_id is not None:
            mapping["headers"] = {**self.headers, MESSAGE_ID: self.message_id}
        if self.text is not None:
            mapping["text"] = self.text
        if self.html is not None:
            mapping["html"] = self.html
        return mapping

    def without(self, recipients: Collection[str]) -> Email:
        """A copy that is not sent to these addresses (as ``recipients`` has them), nor shows them.

        Some recipients must be left. Most vendors need one in to: if none is left there, those in
        cc move up, or else the only one in bcc, who then sees nobody but himself.
        """
        copy = self.with_values()
        identities = {Address("", address).identity for address in recipients}
        for name in ("to", "cc", "bcc"):
            _set(copy, name, _others(getattr(self, name), identities))
        if self.envelope is not None:
            rest = _others(self.envelope.recipients, identities)
            _set(copy, "envelope", replace(self.envelope, recipients=rest))
        for name in ("cc", "bcc"):
            if not copy.to and (name == "cc" or len(copy.bcc) == 1):
                _set(copy, "to", getattr(copy, name))
                _set(copy, name, ())
        return copy

    def with_values(self, **values: Any) -> Email:
        """A copy with these values of its attributes, unchecked."""
        copy = object.__new__(Email)
        for name in self.__slots__:
            _set(copy, name, values.get(name, getattr(self, name)))
        return copy

    @property
    def entries(self) -> int:
        """The number of entries that name who is sent to; a mailbox counts each time."""
        if self.envelope is not None and self.envelope.recipients:
            return len(self.envelope.recipients)
        return len(self.to) + len(self.cc) + len(self.bcc)

    @property
    def people(self) -> tuple[Address, ...]:
        """All addresses: of the sender, recipients, reply_to and the envelope."""
        headers = (self.from_, *self.to, *self.cc, *self.bcc, *self.reply_to)
        return headers if self.envelope is None else headers + self.envelope.people

    @property
    def recipients(self) -> tuple[Address, ...]:
        """The mailboxes that are sent to, each once: in the order of to, cc and bcc."""
        return tuple(person for people in self.unique_recipients().values() for person in people)

    @property
    def bounce_address(self) -> Address | None:
        """Who hears of bounces, with an empty address if nobody does; None: the From."""
        return None if self.envelope is None else self.envelope.from_

    @property
    def display_only(self) -> tuple[Address, ...]:
        """Those in to and cc whom the envelope does not name: shown, and never sent to.

        Mailboxes are compared as vendors' APIs do: without regard to case.
        """
        if self.envelope is None or not self.envelope.recipients:
            return ()
        identities = {person.identity.lower() for person in self.envelope.recipients}
        shown = (*self.to, *self.cc)
        return tuple([p for p in shown if p.identity.lower() not in identities])

    def unique_recipients(self, *, ignore_case: bool = False) -> dict[str, list[Address]]:
        """By field, each mailbox that is sent to only where it comes first; no empty fields.

        The fields are to, cc, and bcc for those that no header shows. Only the receiving server
        knows what a local part means (RFC 5321, 2.4): ``Bob@`` and ``bob@`` are two mailboxes, to
        an SMTP server and in the ledger. With ``ignore_case`` they are one, as to every vendor's
        API and its limits.
        """
        fields: list[tuple[str, Iterable[Address]]]
        fields = [("to", self.to), ("cc", self.cc), ("bcc", self.bcc)]
        if self.envelope is not None and self.envelope.recipients:
            fields = self._envelope_fields(ignore_case)
        identities: set[str] = set()
        unique: dict[str, list[Address]] = {}
        for name, people in fields:
            for person in people:
                identity = person.identity.lower() if ignore_case else person.identity
                if identity not in identities:
                    identities.add(identity)
                    unique.setdefault(name, []).append(person)
        return unique

    def _envelope_fields(self, ignore_case: bool) -> list[tuple[str, Iterable[Address]]]:
        recipients = () if self.envelope is None else self.envelope.recipients
        identities = {_identity(person, ignore_case) for person in recipients}
        to, cc = (
            [person for person in people if _identity(person, ignore_case) in identities]
            for people in (self.to, self.cc)
        )
        return [("to", to), ("cc", cc), ("bcc", recipients)]


def _identity(person: Address, ignore_case: bool) -> str:
    return person.identity.lower() if ignore_case else person.identity


def _others(people: Iterable[Address], identities: Collection[str]) -> tuple[Address, ...]:
    return tuple([person for person in people if person.identity not in identities])


def _texts(addresses: Iterable[Address]) -> list[str]:
    return list(map(str, addresses))


def _mappings(parts: Iterable[Attachment | Alternative]) -> list[dict[str, Any]]:
    return [part.to_mapping() for part in parts]


_STORED: Mapping[str, Callable[[Any], object]] = {  # how a value that is not empty is stored
    **dict.fromkeys(("to", "cc", "bcc", "reply_to"), _texts),
    "envelope": Envelope.to_mapping,
    "subject": str,
    **dict.fromkeys(("headers", "metadata", "vendor_options"), dict),
    "tags": list,
    "attachments": _mappings,
    "alternatives": _mappings,
}


def _move_message_id(email: Email) -> None:
    """Move an own Message-ID from the headers to ``message_id``."""
    message_id = email.headers.get(MESSAGE_ID)
    _set(email, "message_id", message_id)
    if message_id is not None:
        _set(email, "headers", {n: v for n, v in email.headers.items() if n != MESSAGE_ID})


def content_hash(mapping: Mapping[str, Any]) -> str:
    """SHA-256 of an e-mail's content, given its ``to_mapping``.

    The order of headers, metadata and options does not matter. An own Message-ID is not part of the
    content: many programs make a new one each time they repeat a call.
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
    """Bytes of an e-mail in MongoDB, given its ``to_mapping``: ``limits.max_size`` bounds it."""
    import bson  # not "from bson import encode", which would look the name up in each call

    return len(bson.encode(mapping))

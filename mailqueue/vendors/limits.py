"""What each type of vendor can carry: data, and one function that reads it. No I/O, no clients.

Decides: whether an e-mail need not be offered to a vendor at all. A vendor that cannot carry it is
passed over without a call and without harm to its health; a producer, which has no credentials,
refuses what nobody can carry.

Assumes: a type that is not listed (a class of your own) can carry everything; its own
``can_carry`` may say more.

Promises: the phrases name no address, subject or body.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mailqueue.config import VendorConfig
from mailqueue.message import Email

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one type of vendor takes; None is no limit (that anybody told us of).

    ``size`` counts what goes over the wire, attachments in base64. ``some`` is True where an
    e-mail can be sent to some of its recipients only, with all of them shown in its headers.
    """

    recipients: int | None = None
    size: int | None = None
    some: bool = False
    unicode_mailboxes: bool = False
    needs_to: bool = False
    needs_subject: bool = False
    needs_body: bool = False
    empty_attachments: bool = True
    inline: bool = True
    text_only: bool = True
    reply_to: int | None = None
    headers: bool = True
    reserved_headers: frozenset[str] = frozenset()
    tags: int | None = None
    tag_length: int | None = None
    metadata: bool = True
    metadata_size: int | None = None


CAPACITY: Mapping[str, Capacity] = {
    "mailgun": Capacity(
        recipients=1000,
        size=25 * MIB,
        needs_to=True,
        tags=3,
        metadata_size=16 * 1024,  # o:, h:, v: and t: fields together
    ),
    "sendgrid": Capacity(
        recipients=1000,
        size=30 * MIB,
        needs_to=True,
        needs_subject=True,
        needs_body=True,
        empty_attachments=False,
        reserved_headers=frozenset({"x-sg-id", "x-sg-eid"}),  # beside those reserved everywhere
        tags=10,
        tag_length=255,
        metadata_size=10_000,
    ),
    "smtp": Capacity(some=True, unicode_mailboxes=True),
}

_ANYTHING = Capacity(some=False, unicode_mailboxes=True)


def capacity(type_: str) -> Capacity:
    """What this type of vendor can carry."""
    return CAPACITY.get(type_, _ANYTHING)


def can_carry(type_: str, email: Email) -> str | None:
    """None if vendors of this type can take the e-mail, else a short phrase that says why not."""
    limit = capacity(type_)
    return next(
        (problem for check in (_people, _parts, _extras) for problem in check(limit, email)),
        None,
    )


def nobody_carries(vendors: Sequence[VendorConfig], email: Email) -> str | None:
    """Why, vendor by vendor, none of them can carry it; None: one can, or none is configured."""
    why = []
    for vendor in vendors:
        reason = can_carry(vendor.type, email)
        if reason is None:
            return None
        why.append(f"{vendor.name}: {reason}")
    return "no vendor can carry it (" + "; ".join(why) + ")" if why else None


def _people(limit: Capacity, email: Email) -> Iterator[str]:
    if limit.recipients is not None and len(email.recipients) > limit.recipients:
        yield f"more than {limit.recipients} recipients"
    if limit.needs_to and not email.to:
        yield "no To recipient"
    if limit.reply_to is not None and len(email.reply_to) > limit.reply_to:
        yield f"more than {limit.reply_to} reply-to"
    people = (email.from_, *email.to, *email.cc, *email.bcc, *email.reply_to)
    if not limit.unicode_mailboxes and not all(person.is_ascii_mailbox for person in people):
        yield "non-ASCII mailbox"


def _parts(limit: Capacity, email: Email) -> Iterator[str]:
    if limit.needs_subject and not email.subject:
        yield "no subject"
    if limit.needs_body and not (email.text or email.html):
        yield "empty body"
    if not limit.text_only and not email.html:
        yield "text only"
    if not limit.inline and any(a.content_id for a in email.attachments):
        yield "inline attachment"
    if not limit.empty_attachments and not all(a.content for a in email.attachments):
        yield "empty attachment"
    if limit.size is not None and _wire_size(email) > limit.size:
        yield f"larger than {limit.size // MIB} MiB"


def _wire_size(email: Email) -> int:
    bodies = len((email.text or "").encode()) + len((email.html or "").encode())
    return bodies + sum(len(a.content) * 4 // 3 for a in email.attachments)


def _extras(limit: Capacity, email: Email) -> Iterator[str]:
    if not limit.headers and email.headers:
        yield "custom headers"
    if limit.reserved_headers.intersection(name.lower() for name in email.headers):
        yield "a header that is reserved there"
    if limit.tags is not None and len(set(email.tags)) > limit.tags:
        yield f"more than {limit.tags} tags"
    if limit.tag_length is not None and any(len(tag) > limit.tag_length for tag in email.tags):
        yield f"a tag longer than {limit.tag_length}"
    if not limit.metadata and email.metadata:
        yield "metadata"
    if limit.metadata_size is not None and _metadata_size(email) > limit.metadata_size:
        yield f"more than {limit.metadata_size} bytes of metadata"


def _metadata_size(email: Email) -> int:
    """Names and values as JSON would write them, with room for our own entry."""
    return 50 + sum(len(k.encode()) + len(v.encode()) + 6 for k, v in email.metadata.items())

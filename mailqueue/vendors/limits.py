"""Whether a vendor can carry an e-mail, by the capacity of its type.

Decides: which vendors are not asked to send an e-mail, and why. A vendor that cannot carry it is
skipped without a call, and stays available. A producer refuses an e-mail that no vendor can carry.
Tags and metadata are no reason (``labels``).

Assumes: a class of your own, whose type is not in the table, can carry everything except
alternatives and an envelope of its own; its own ``can_carry`` may say more.

Promises: no I/O and no clients; the phrases name no address, subject or body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mailqueue.config import VendorConfig
from mailqueue.config.capacity import Capacity
from mailqueue.config.vendor_types import MIB, VENDOR_TYPES
from mailqueue.message import Address, Attachment, Email
from mailqueue.message.file_types import types_of
from mailqueue.message.headers import encode_unstructured
from mailqueue.message.parameters import charset

ENVELOPE = "envelope"  # the field, and the first word of what is wrong with it

# A class of the user's own: it has ``can_carry`` for what it cannot take.
_UNKNOWN_TYPE = Capacity(unicode_mailboxes=True, quoted_mailboxes=True)
_SPECIALS = re.compile(r'[()<>\[\]:;@\\,."]')
_PUNCTUATION = frozenset('@,;:()[]\\"')
_NO_OPTIONS: Mapping[str, Any] = {}
OWN_OPTIONS = 200  # bytes that our id, Message-ID and sandbox take of ``options_size``


def capacity(type_: str, options: Mapping[str, Any] = _NO_OPTIONS) -> Capacity:
    """What this type of vendor can carry with these options of its configuration."""
    row = VENDOR_TYPES.get(type_)
    limit = row.capacity if row else _UNKNOWN_TYPE
    if limit.by_plan is None:
        return limit
    option, name = limit.by_plan
    more: dict[str, Any] = {name: True}
    return replace(limit, **more) if options.get(option) is True else limit


def can_carry(type_: str, email: Email, options: Mapping[str, Any] = _NO_OPTIONS) -> str | None:
    """None if vendors of this type can carry the e-mail, else a short phrase that says why not."""
    limit = capacity(type_, options)
    # The first problem is enough. Each check is a generator, so what follows is not computed.
    for check in _CHECKS:
        for problem in check(limit, email):
            return problem
    return None


def nobody_carries(vendors: Sequence[VendorConfig], email: Email) -> tuple[str, str] | None:
    """The field and the problem for which no vendor can carry the e-mail.

    None: one can, or no vendor is configured.
    """
    reasons: list[tuple[str, str]] = []
    for vendor in vendors:
        reason = can_carry(vendor.type, email, vendor.options)
        if reason is None:
            return None
        reasons.append((vendor.name, reason))
    if not reasons:
        return None
    by_envelope = any(reason.startswith(ENVELOPE) for _, reason in reasons)
    each = "; ".join(f"{name}: {reason}" for name, reason in reasons)
    return ENVELOPE if by_envelope else "email", f"no vendor can carry it ({each})"


def _numbers(limit: Capacity, email: Email) -> Iterator[str]:
    """The numbers of recipients; each mailbox counts once."""
    if email.entries == 1:  # nearly always
        return
    bounds = {"to": limit.to, "cc": limit.cc, "bcc": limit.bcc}
    # A mailbox may stand in two entries. They are compared only if there are too many entries.
    maxima = [bound for bound in (limit.recipients, *bounds.values()) if bound is not None]
    if not maxima or email.entries <= min(maxima):
        return
    recipients = email.unique_recipients(ignore_case=True)
    counts = {field: len(people) for field, people in recipients.items()}
    if limit.recipients is not None and sum(counts.values()) > limit.recipients:
        yield f"more than {limit.recipients} recipients"
    for field, maximum in bounds.items():
        if maximum is not None and counts.get(field, 0) > maximum:
            yield f"more than {maximum} {field} recipients"


def _envelope(limit: Capacity, email: Email) -> Iterator[str]:
    if email.envelope is None:
        return
    if email.display_only and not limit.envelope_recipients:
        yield f"{ENVELOPE} without some of the shown recipients"
    sender = email.bounce_address
    if sender is not None and not limit.bounce_address:
        yield f"{ENVELOPE} with a bounce address"
    if sender is not None and not sender.address and not limit.null_sender:
        yield f"{ENVELOPE} with the null sender"


def _people(limit: Capacity, email: Email) -> Iterator[str]:
    if limit.needs_to and not email.to:
        yield "no To recipient"
    if limit.reply_to is not None and len(email.reply_to) > limit.reply_to:
        yield f"more than {limit.reply_to} reply-to"
    people = email.people
    if not limit.unicode_mailboxes and not all(person.is_ascii_mailbox for person in people):
        yield "non-ASCII mailbox"
    if not limit.quoted_mailboxes and any(map(_is_delicate, people)):
        yield "mailbox with punctuation in quotes"
    longest = limit.name_length
    if longest is not None and any(len(brevo_name(person.name)) > longest for person in people):
        yield f"display name longer than {longest}"
    if (
        limit.sender_name_size is not None
        and len(email.from_.name.encode()) > limit.sender_name_size
    ):
        yield f"sender name longer than {limit.sender_name_size} bytes"


def brevo_name(name: str) -> str:
    """The name encoded if Brevo would drop it: with non-ASCII characters and punctuation."""
    return encode_unstructured(name) if not name.isascii() and _SPECIALS.search(name) else name


def _is_delicate(person: Address) -> bool:
    """Whether a careless parser could read another mailbox, or several."""
    if not person.address.startswith('"'):
        return False
    return not _PUNCTUATION.isdisjoint(person.address.rpartition('"@')[0][1:])


def _parts(limit: Capacity, email: Email) -> Iterator[str]:
    if limit.needs_subject and not email.subject:
        yield "no subject"
    if limit.needs_body and not (email.text or email.html):
        yield "empty body"
    if not limit.text_only and not email.html:
        yield "text only"
    if email.alternatives and not limit.alternatives:
        yield "alternatives beside text and HTML"
    least = limit.shortest_text
    if least and any(0 < len(t or "") < least for t in (email.subject, email.text, email.html)):
        yield f"subject or body shorter than {least}"
    if limit.subject_length is not None and len(email.subject) > limit.subject_length:
        yield f"subject longer than {limit.subject_length}"
    if limit.size is not None and _wire_size(email) > limit.size:
        yield f"larger than {limit.size // MIB} MiB"
    size = limit.body_size
    if size is not None and any(len((b or "").encode()) > size for b in (email.text, email.html)):
        yield f"body larger than {size // MIB} MiB"


def _templates(limit: Capacity, email: Email) -> Iterator[str]:
    """Text that a template engine would read as a placeholder, and leave out."""
    if not limit.templated:
        return
    names = map(str, email.people)
    texts = {
        "bodies": (email.text or "", email.html or ""),
        "headers": (email.subject, *names, *email.headers, *email.headers.values()),
    }
    templated = (text for part in limit.templated for text in texts[part])
    if any("{{" in text or "{%" in text for text in templated):
        yield "text that looks like a template"


def _files(limit: Capacity, email: Email) -> Iterator[str]:
    files = email.attachments
    if not files:
        return
    inline = [file for file in files if file.content_id]
    if inline and not limit.inline:
        yield "inline attachment"
    if limit.inline_images_only and not all(
        bare_type(file).startswith("image/") for file in inline
    ):
        yield "inline attachment that is not an image"
    if limit.plain_content_ids and any({*";,"} & {*str(f.content_id)} for f in inline):
        yield "content id with a comma or semicolon"
    if not limit.empty_attachments and not all(file.content for file in files):
        yield "empty attachment"
    if limit.attachments is not None and len(files) > limit.attachments:
        yield f"more than {limit.attachments} attachments"
    if limit.attachment_types and not limit.attachment_types.issuperset(map(bare_type, files)):
        yield "attachment type not accepted"
    maximum = limit.attachments_size
    if maximum is not None and sum(len(file.content) for file in files) > maximum:
        yield f"attachments larger than {maximum // 1_000_000} MB"


def _names(limit: Capacity, email: Email) -> Iterator[str]:
    """What vendors conclude from a file's name, and from its type being text."""
    files = email.attachments
    if not files:
        return
    if limit.extensions is not None:
        extensions = {f.filename.rpartition(".")[2].lower() for f in files if "." in f.filename}
        if not limit.extensions.issuperset(extensions) or not all("." in f.filename for f in files):
            yield "attachment extension not accepted"
    if limit.names_tell_types and not all(map(_name_fits, files)):
        yield "attachment whose name contradicts its type"
    if limit.utf8_files and any(_charset(file) not in _UTF8 for file in files):
        yield "attachment of text that is not UTF-8"


_UTF8 = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})


def _charset(file: Attachment) -> str:
    return charset(file.content_type) if bare_type(file).startswith("text/") else ""


def _name_fits(file: Attachment) -> bool:
    """Whether the extension allows the file's type; an unknown extension allows any."""
    types = types_of(file.filename)
    return not types or bare_type(file) in types


def bare_type(file: Attachment) -> str:
    """The type of a file without its parameters, lower case."""
    return file.content_type.partition(";")[0].strip().lower()


def _wire_size(email: Email) -> int:
    bodies = len((email.text or "").encode()) + len((email.html or "").encode())
    contents = [file.content for file in email.attachments]
    contents += [form.content for form in email.alternatives]
    # Base64 makes four characters of three octets. Headers are small beside it.
    return bodies + sum([len(content) * 4 // 3 for content in contents])


def _headers(limit: Capacity, email: Email) -> Iterator[str]:
    if not email.headers:
        return
    # Our own ones are left out where the vendor takes none.
    if not limit.headers and not all(name.startswith("X-Mailqueue-") for name in email.headers):
        yield "custom headers"
    if limit.reserved_headers.intersection(name.lower() for name in email.headers):
        yield "reserved header"
    if limit.ascii_headers and not all(map(_is_plain, email.headers.values())):
        yield "non-ASCII headers"
    if limit.options_size is not None and headers_size(email) > limit.options_size - OWN_OPTIONS:
        yield f"more than {limit.options_size} bytes of headers"


def headers_size(email: Email) -> int:
    """Bytes of the e-mail's own headers."""
    return sum(len(name) + len(value.encode()) for name, value in email.headers.items())


def _is_plain(value: str) -> bool:
    """Whether a value is ASCII without an encoded word, which some vendors decode."""
    return value.isascii() and "=?" not in value


_CHECKS = (_envelope, _numbers, _people, _parts, _templates, _files, _names, _headers)

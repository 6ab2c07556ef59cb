"""An e-mail as a MIME message, for SMTP and for vendors that take one.

Decides: how headers, bodies and files are encoded, and how they are nested.

Assumes: the e-mail was validated. Header values are checked once more all the same: this is the
last step before the wire.

Promises: the message is 7-bit (only a mailbox outside ASCII goes out as UTF-8, RFC 6532), has CRLF
line ends and no line over 998 octets. It is the same, byte for byte, for the same input on every
host: a repeat under a vendor's idempotency key must match. So the standard library is not used: its
folding changes with patch releases of Python.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote

from mailqueue.errors import InvalidEmail
from mailqueue.message import structured
from mailqueue.message.addresses import mailboxes
from mailqueue.message.headers import (
    FIELD_NAME,
    LINE,
    character_problem,
    chunks,
    encode_unstructured,
    escape,
    header_text,
    is_plain,
    pieces,
)

if TYPE_CHECKING:
    from datetime import datetime

    from mailqueue.message.addresses import Address
    from mailqueue.message.attachments import Alternative, Attachment
    from mailqueue.message.message import Email

_FOLD_AT = 76  # octets in a line of a header, and of base64


def mime(
    email: Email,
    *,
    message_id: str,
    date: datetime | None = None,
    email_id: str | None = None,
    sender: Address | None = None,
    extra_headers: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """The message: without a Bcc header, equal bytes for equal arguments.

    ``sender`` replaces the From; ``extra_headers`` are ASCII. Tags, metadata and vendor options are
    not part of it. Nor is the envelope: the headers show what they show.
    """
    message_id = f"<{message_id.strip().strip('<>')}>"
    headers = [*_heading(email, sender or email.from_), ("Message-ID", message_id)]
    if date is not None:
        from email.utils import format_datetime

        headers.append(("Date", format_datetime(date)))
    if email_id is not None:
        headers.append(("X-Mailqueue-Id", email_id))
    headers += (*_own_headers(email), *extra_headers.items())
    bodies = (email.text, email.html, email.attachments, email.alternatives)
    return write(headers, *bodies, seed=message_id)


def _heading(email: Email, sender: Address) -> Iterator[tuple[str, str]]:
    """The headers made of fields. Values are checked before they are encoded."""
    fields = (("From", (sender,)), ("To", email.to), ("Cc", email.cc), ("Reply-To", email.reply_to))
    for name, addresses in fields:
        for address in addresses:
            header_text(address.name, name.lower().replace("-", "_"))
        if addresses:
            yield name, mailboxes(addresses)
        elif name == "To" and not email.cc:
            yield "To", "undisclosed-recipients:;"
    yield "Subject", encode_unstructured(header_text(email.subject, "subject"))


def _own_headers(email: Email) -> Iterator[tuple[str, str]]:
    for name, value in email.headers.items():
        yield name, structured.encode(name, header_text(value, "headers"))


def write(
    headers: Iterable[tuple[str, str]],
    text: str | None,
    html: str | None,
    attachments: Sequence[Attachment],
    alternatives: Sequence[Alternative] = (),
    *,
    seed: str,
) -> bytes:
    """Build the message; ``seed`` (the Message-ID) and the content give the boundaries.

    A mail program shows the last form that it knows (RFC 2046), so HTML comes after the other
    forms; except an invitation, which mail programs look for at the end.
    """
    # mixed(alternative(text, …, related(html, inline files), invitation), other files); a container
    # of one part is left out.
    head = b"".join(_header(name, value) for name, value in headers)
    inline = [file for file in attachments if file.content_id and html is not None]
    others = [file for file in attachments if not file.content_id or html is None]
    bodies = [] if text is None else [_text("plain", text)]
    bodies += [_alternative(each) for each in alternatives if not _is_invitation(each)]
    if html is not None:
        related = [_text("html", html), *map(_attachment, inline)]
        bodies.append(_multipart("related", related, seed))
    bodies += [_alternative(each) for each in alternatives if _is_invitation(each)]
    parts = [_multipart("alternative", bodies, seed), *map(_attachment, others)]
    return head + b"MIME-Version: 1.0\r\n" + _multipart("mixed", parts, seed)


def _header(name: str, value: str) -> bytes:
    """One header, folded at white space; the last check before the wire."""
    problem = character_problem(value)
    if problem or not FIELD_NAME.fullmatch(name):
        raise InvalidEmail("headers", problem or "has an invalid header name")
    # A line break goes before white space only, which stays: unfolding gives the same value back. A
    # piece that is longer than a line stands alone on one; ``structured`` and ``encode_words`` see
    # to it that none is longer than 998 octets.
    lines = [f"{name}:"]
    width = LINE  # the first line may be long: some readers stumble over an empty one
    for piece in pieces(value):
        if len(lines[-1]) + len(piece) > width:
            lines.append(piece)
        else:
            lines[-1] += piece
        width = _FOLD_AT
    return "\r\n".join(lines).encode() + b"\r\n"


def _multipart(subtype: str, parts: Sequence[bytes], seed: str) -> bytes:
    """Join the parts; a single one needs no container."""
    if len(parts) == 1:
        return parts[0]
    mark = boundary(f"{subtype} {seed}", parts)
    head = _header("Content-Type", f'multipart/{subtype}; boundary="{mark}"')
    line = f"\r\n--{mark}".encode()
    pieces = [b"%b\r\n%b" % (line, part) for part in parts]
    return head + b"".join(pieces) + line + b"--\r\n"


def boundary(seed: str, parts: Sequence[bytes]) -> str:
    """What separates these parts: equal for equal parts, and contained in none of them.

    It depends on every octet of the parts, so the author of one cannot know it in advance.
    """
    digest = sha256(seed.encode())
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    while any(digest.hexdigest()[:32].encode() in part for part in parts):
        digest.update(b"another")
    return f"=_{digest.hexdigest()[:32]}"


def _text(subtype: str, value: str) -> bytes:
    # Quoted-printable can be read as it is; base64 is taken where it is shorter (Chinese, say).
    octets = value.replace("\r\n", "\n").replace("\r", "\n").encode()
    encoding, body = "quoted-printable", binascii.b2a_qp(octets).replace(b"\n", b"\r\n")
    if not value.isascii():
        base64 = _base64(octets.replace(b"\n", b"\r\n"))
        if len(base64) < len(body):
            encoding, body = "base64", base64
    head = _header("Content-Type", f"text/{subtype}; charset=utf-8")
    return head + _header("Content-Transfer-Encoding", encoding) + b"\r\n" + body


def _is_invitation(form: Alternative) -> bool:
    return form.content_type.lower().startswith("text/calendar")


def _alternative(form: Alternative) -> bytes:
    head = _header("Content-Type", form.content_type)
    return head + _header("Content-Transfer-Encoding", "base64") + b"\r\n" + _base64(form.content)


def _attachment(file: Attachment) -> bytes:
    content_type, encoding, body = file.content_type, "base64", b""
    if content_type.lower().startswith("message/"):
        # RFC 2046 forbids base64 for these types, and some servers do not take 8 bit.
        lines = file.content.splitlines()
        if _is_7bit(file.content, lines):
            encoding, body = "7bit", b"\r\n".join([*lines, b""])
        else:
            content_type = "application/octet-stream"
    disposition = "inline" if file.content_id else "attachment"
    head = _header("Content-Type", content_type)
    head += _header("Content-Transfer-Encoding", encoding)
    head += _header("Content-Disposition", disposition + _filename(file.filename))
    if file.content_id:
        head += _header("Content-ID", f"<{file.content_id}>")
    return head + b"\r\n" + (body if encoding == "7bit" else _base64(file.content))


def _is_7bit(content: bytes, lines: Sequence[bytes]) -> bool:
    return content.isascii() and b"\0" not in content and all(len(line) <= LINE for line in lines)


def _base64(content: bytes) -> bytes:
    packed = b64encode(content)
    return b"".join(
        [packed[at : at + _FOLD_AT] + b"\r\n" for at in range(0, len(packed), _FOLD_AT)]
    )


def _filename(name: str) -> str:
    """The parameter of Content-Disposition: by RFC 2231 where it is not plain ASCII."""
    problem = character_problem(name)
    if problem:
        raise InvalidEmail("attachments", f"has a file name that {problem}")
    if is_plain(name):
        return f'; filename="{escape(name)}"'
    # 18 octets are 54 characters when they are quoted, so that each section fits on a line.
    sections = [quote(chunk, safe="") for chunk in chunks(name, 18)]
    if len(sections) == 1:
        return f"; filename*=utf-8''{sections[0]}"
    sections[0] = f"utf-8''{sections[0]}"
    return "".join(f"; filename*{n}*={section}" for n, section in enumerate(sections))

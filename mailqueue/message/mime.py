"""The wire format of e-mail: an e-mail as bytes.

Decides: how headers, bodies and files are encoded, and how they are nested (``write``).

May assume: that header values were checked and encoded; a line break is refused all the same.

Promises: ``write`` is 7-bit (only a non-ASCII *mailbox* goes out as UTF-8, RFC 6532), has CRLF line
ends, no line over 998 octets, and gives the same bytes for the same input on every Python: a repeat
under a vendor's idempotency key must match on hosts that differ in their patch release, so the
standard library's folding, which changed often, is not used.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import quote

from mailqueue.errors import InvalidEmail
from mailqueue.message.headers import FIELD_NAME, LINE, chunks, escaped, forbidden, pieces, plain

GENERATED = frozenset({"date", "mime-version"})
"""Header names (lower case) that mailqueue makes itself; so are all ``content-*``."""

_LINE = 76


@dataclass(frozen=True, slots=True, repr=False)
class Attachment:
    """A file with an e-mail; shown inside the HTML (``cid:...``) when ``content_id`` is set."""

    filename: str
    content: bytes
    content_type: str = ""
    content_id: str | None = None

    def __repr__(self) -> str:
        return f"Attachment({self.content_type or 'no type'}, {len(self.content)} bytes)"


@dataclass(frozen=True, slots=True, repr=False)
class Alternative:
    """The e-mail in another form than plain text and HTML: an invitation, AMP, Markdown."""

    content: bytes
    content_type: str

    def __repr__(self) -> str:
        return f"Alternative({self.content_type}, {len(self.content)} bytes)"


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

    A reader shows the last form that it knows (RFC 2046), so HTML comes after all others but an
    invitation, which mail programs look for at the end.
    """
    head = b"".join(_header(name, value) for name, value in headers)
    inline = [file for file in attachments if file.content_id and html is not None]
    rest = [file for file in attachments if not file.content_id or html is None]
    bodies = [] if text is None else [_text("plain", text)]
    bodies += [_form(each) for each in alternatives if not _is_last(each)]
    if html is not None:
        related = [_text("html", html), *map(_file, inline)]
        bodies.append(_multipart("related", related, seed))
    bodies += [_form(each) for each in alternatives if _is_last(each)]
    parts = [_multipart("alternative", bodies, seed), *map(_file, rest)]
    return head + b"MIME-Version: 1.0\r\n" + _multipart("mixed", parts, seed)


def _header(name: str, value: str) -> bytes:
    """One header, folded at white space; the last check before the wire."""
    problem = forbidden(value)
    if problem or not FIELD_NAME.fullmatch(name):
        raise InvalidEmail("headers", problem or "bad header name")
    lines = [f"{name}:"]
    room = LINE  # the first line is not left empty where it need not be: some readers stumble
    for piece in pieces(value):
        if len(lines[-1]) + len(piece) > room:
            lines.append(piece)
        else:
            lines[-1] += piece
        room = _LINE
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
    """What separates these parts: equal for equal parts, and nowhere in them.

    It depends on every octet between the boundaries, so nobody who writes a part can know it.
    """
    digest = sha256(seed.encode())
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    while any(digest.hexdigest()[:32].encode() in part for part in parts):
        digest.update(b"another")
    return f"=_{digest.hexdigest()[:32]}"


def _text(subtype: str, value: str) -> bytes:
    octets = value.replace("\r\n", "\n").replace("\r", "\n").encode()
    encoding, body = "quoted-printable", binascii.b2a_qp(octets).replace(b"\n", b"\r\n")
    if not value.isascii():
        packed = _base64(octets.replace(b"\n", b"\r\n"))
        if len(packed) < len(body):
            encoding, body = "base64", packed
    head = _header("Content-Type", f"text/{subtype}; charset=utf-8")
    return head + _header("Content-Transfer-Encoding", encoding) + b"\r\n" + body


def _is_last(form: Alternative) -> bool:
    return form.content_type.lower().startswith("text/calendar")


def _form(form: Alternative) -> bytes:
    head = _header("Content-Type", form.content_type)
    return head + _header("Content-Transfer-Encoding", "base64") + b"\r\n" + _base64(form.content)


def _file(file: Attachment) -> bytes:
    content_type, encoding, body = file.content_type, "base64", b""
    if content_type.lower().startswith("message/"):
        # RFC 2046 forbids base64 here, and 8 bit would not pass every server.
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
    return b"".join([packed[at : at + _LINE] + b"\r\n" for at in range(0, len(packed), _LINE)])


def _filename(name: str) -> str:
    """The parameter of Content-Disposition; RFC 2231, in sections where it is long."""
    problem = forbidden(name)
    if problem:
        raise InvalidEmail("attachments", f"the file name {problem}")
    if plain(name):
        return f'; filename="{escaped(name)}"'
    sections = [quote(chunk, safe="") for chunk in chunks(name, 18)]
    if len(sections) == 1:
        return f"; filename*=utf-8''{sections[0]}"
    sections[0] = f"utf-8''{sections[0]}"
    return "".join(f"; filename*{n}*={section}" for n, section in enumerate(sections))

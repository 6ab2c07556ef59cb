"""The wire format of e-mail: what may stand in a header, bytes out, a stdlib message in.

Decides: which header values are refused (``unsafe``), how names, headers and bodies are encoded
(``write``), and what each part of an ``email.message.EmailMessage`` means (``read``).

May assume: nothing about its input; ``write`` checks again what the producer checked already.

Promises: ``write`` is 7-bit (only a non-ASCII *mailbox* goes out as UTF-8, RFC 6532), has CRLF line
ends, no line over 998 octets, and gives the same bytes for the same input on every Python: a repeat
under a vendor's idempotency key must match on hosts that differ in their patch release, so the
standard library's folding, which changed often, is not used. ``read`` loses nothing silently: what
it cannot decode is ``InvalidEmail``. Only a message's own ``Date``, ``MIME-Version`` and
``Content-*`` are dropped, since mailqueue makes these anew.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from mailqueue import structured
from mailqueue.errors import InvalidEmail
from mailqueue.headers import FIELD_NAME, LINE, chunks, escaped, forbidden, pieces, plain
from mailqueue.raw_headers import check, free_text, mailboxes, source

if TYPE_CHECKING:  # the email package is slow to import and only needed for stdlib messages
    from email.message import EmailMessage, Message

GENERATED = frozenset({"date", "mime-version"})
"""Header names (lower case) that mailqueue makes itself; so are all ``content-*``."""

_CID = re.compile(r"""cid:([^\s"'<>)]+)""")
_EFFORT = 50_000_000  # the square of 7,000 characters
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


# --- writing


def write(
    headers: Iterable[tuple[str, str]],
    text: str | None,
    html: str | None,
    attachments: Sequence[Attachment],
    *,
    seed: str,
) -> bytes:
    """Build the message; ``seed`` (the Message-ID) and the content give the boundaries."""
    head = b"".join(_header(name, value) for name, value in headers)
    inline = [file for file in attachments if file.content_id and html is not None]
    rest = [file for file in attachments if not file.content_id or html is None]
    bodies = [] if text is None else [_text("plain", text)]
    if html is not None:
        related = [_text("html", html), *map(_file, inline)]
        bodies.append(_multipart("related", related, seed))
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
    return content.isascii() and b"\0" not in content and all(len(line) <= 998 for line in lines)


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


# --- reading


def read(message: object) -> dict[str, Any]:
    """The mapping that ``send()`` takes, from a stdlib message of any policy."""
    from email.message import Message

    if not isinstance(message, Message):
        problem = "must be a mapping, an Email or an email.message.EmailMessage"
        raise InvalidEmail("email", f"{problem}, not {type(message).__name__}")
    try:
        return _mapping(message)
    except InvalidEmail:
        raise
    except Exception as error:  # noqa: BLE001 - on malformed messages the library raises anything
        raise InvalidEmail("email", f"cannot be read ({type(error).__name__})") from None


def _mapping(message: Message[Any, Any]) -> dict[str, Any]:
    _check_headers(message)
    mapping = _headers(message)
    modern = _modern(message)
    leaves = list(_leaves(modern))
    bodies = {kind: modern.get_body((kind,)) for kind in ("plain", "html")}
    for field, part in zip(("text", "html"), bodies.values(), strict=True):
        mapping[field] = None if part is None else _body(part, field)
    files = [leaf for leaf in leaves if all(leaf is not body for body in bodies.values())]
    shown = _shown(mapping["html"] or "")
    mapping["attachments"] = [
        _attachment(part, f"attachments[{n}]", shown) for n, part in enumerate(files)
    ]
    return mapping


def _check_headers(message: Message[Any, Any]) -> None:
    """Refuse line breaks that are no folding, and what the library would take too long for.

    It takes the square of the length for the parameters of a type or disposition, many times over.
    """
    effort = 0
    for part in message.walk():
        for name, raw in part.raw_items():
            check(name, raw, _field(name))
            if name.lower().startswith("content-"):
                effort += len(str(raw)) ** 2
    if effort > _EFFORT:
        raise InvalidEmail("email", "has too long headers of its parts")


def _modern(message: Message[Any, Any]) -> EmailMessage:
    """The message under a policy that decodes; legacy ones are written and parsed again."""
    from email import message_from_bytes, policy
    from email.message import EmailMessage

    if isinstance(message, EmailMessage) and isinstance(message.policy, policy.EmailPolicy):
        return message
    return message_from_bytes(message.as_bytes(), policy=policy.default)


_ADDRESSES = {"from": "from", "to": "to", "cc": "cc", "bcc": "bcc", "reply-to": "reply_to"}


def _field(header: str) -> str:
    """The field of an e-mail that a header stands for."""
    fields = _ADDRESSES | {"subject": "subject"}
    return fields.get(header.lower(), f"headers.{header}")


def _headers(message: Message[Any, Any]) -> dict[str, Any]:
    mapping: dict[str, Any] = {"headers": {}}
    for name, raw in message.raw_items():
        key, field = name.lower(), _field(name)
        if key in GENERATED or key.startswith("content-"):
            continue
        text = source(raw, field)
        if key in _ADDRESSES:
            mapping.setdefault(_ADDRESSES[key], []).extend(mailboxes(text, field))
        elif key == "subject" and "subject" not in mapping:
            mapping["subject"] = free_text(text, field)
        elif name in mapping["headers"] or key == "subject":
            raise InvalidEmail(field, "given more than once")
        elif structured.has_addresses(name):
            mapping["headers"][name] = ", ".join(mailboxes(text, field))
        else:
            mapping["headers"][name] = free_text(text, field)
    senders = mapping.pop("from", [])
    if len(senders) > 1:
        raise InvalidEmail("from", "must be one address")
    return mapping | {"from": next(iter(senders), None)}


def _leaves(message: Any) -> Iterator[EmailMessage]:
    """The parts that are no containers; an attached message is one leaf."""
    if message.get_content_maintype() != "multipart":
        yield message
    elif not message.is_multipart() or message.get_content_subtype() in {"signed", "encrypted"}:
        raise InvalidEmail("email", "has a multipart that cannot be taken apart")
    else:
        for part in message.get_payload():
            yield from _leaves(part)


def _content(part: Any, field: str) -> bytes:
    from email.errors import InvalidBase64CharactersDefect, InvalidBase64LengthDefect

    if part.get_content_maintype() == "message":
        octets: bytes = part.as_bytes(policy=part.policy.clone(linesep="\r\n"))
        return octets.partition(b"\r\n\r\n")[2]
    encoding = str(part.get("Content-Transfer-Encoding", "7bit")).strip().lower()
    raw, octets = part.get_payload() or "", part.get_payload(decode=True) or b""
    lossy = (InvalidBase64CharactersDefect, InvalidBase64LengthDefect)
    if encoding not in _ENCODINGS or any(isinstance(defect, lossy) for defect in part.defects):
        raise InvalidEmail(field, "has a broken transfer encoding")
    # set_payload() with bare non-ASCII text: the library would put backslash escapes in its place.
    if not raw.isascii() and max(raw) > "\xff" and octets == raw.encode("raw-unicode-escape"):
        raise InvalidEmail(field, "has characters outside its transfer encoding")
    return octets


_ENCODINGS = frozenset({"7bit", "8bit", "binary", "base64", "quoted-printable"})


def _body(part: Any, field: str) -> str:
    try:
        return _content(part, field).decode(part.get_content_charset("us-ascii"))
    except (LookupError, UnicodeError):
        raise InvalidEmail(field, "cannot be decoded by its charset") from None


def _shown(html: str) -> frozenset[str]:
    """The ids of files that the HTML shows."""
    found = _CID.findall(html)
    return frozenset(found).union(map(unquote, found))


def _attachment(part: Any, field: str, shown: Collection[str]) -> dict[str, Any]:
    content_id = str(part.get("Content-ID", "")).strip().removeprefix("<").removesuffix(">")
    # Some programs give every attachment an id: it is inline if it says so, or the HTML shows it.
    if part.get_content_disposition() == "attachment" and content_id not in shown:
        content_id = ""
    return {
        "filename": part.get_filename(),
        "content": _content(part, field),
        "content_type": _content_type(part),
        "content_id": content_id or None,
    }


def _content_type(part: Any) -> str:
    """Type and parameters, without the file's name, which has its own field."""
    header = part.get("Content-Type")
    params = {} if header is None else dict(header.params)
    params.pop("name", None)
    quoted = (f'; {key}="{escaped(value)}"' for key, value in params.items())
    return str(part.get_content_type()) + "".join(quoted)

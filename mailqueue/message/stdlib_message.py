"""A message of the standard library, as the mapping that ``send()`` takes.

Decides: what each part of an ``email.message.EmailMessage`` (or an older ``Message``) is: the text,
the HTML, another form of both, or a file.

Assumes: nothing about the message. Headers are read by ``raw_headers`` and ``parameters``, not by
the library's own parser.

Promises: nothing is lost silently: what cannot be kept is ``InvalidEmail``. Only a message's own
``Date``, ``MIME-Version`` and ``Content-*`` are dropped: mailqueue makes its own. By the RFCs:

* The parts of ``multipart/mixed`` are independent (RFC 2046): one of them is the body, the others
  are files in their order, text or not. The body is the first part with several forms, else the
  first text.
* ``multipart/alternative``: plain text, HTML, and other text (an invitation, AMP, Markdown) as an
  alternative of both.
* ``multipart/related``: its root is the body, the others are files that the HTML may show.
* Signed and encrypted messages (also S/MIME in one part) and reports are refused: they would not
  stay valid when taken apart.
* A flowed text (RFC 3676) is unwrapped. An attached message stays as it is, except line ends.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as BadBase64
from binascii import a2b_qp
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import unquote

from mailqueue.errors import InvalidEmail
from mailqueue.message import structured
from mailqueue.message.headers import GENERATED, decode, escape
from mailqueue.message.parameters import Parameters, parameters
from mailqueue.message.raw_headers import check, free_text, mailboxes, source

# An email.message.Message. What its methods return depends on how it was made, so the library's
# annotations do not hold.
Part = Any
_CID = re.compile(r"""cid:([^\s"'<>)]+)""")
_TYPE = re.compile(r"[!#$&^_.+a-z0-9-]+/[!#$&^_.+a-z0-9-]+")
_QUOTES = re.compile(r">*")
_MAX_EFFORT = 50_000_000  # the square of 7,000 characters
_MAX_DEPTH = 50
_BROKEN_ENCODING = "has an invalid transfer encoding: use base64 or quoted-printable"
_ENCODINGS = frozenset({"7bit", "8bit", "binary", "base64", "quoted-printable"})
_ADDRESSES = {"from": "from", "to": "to", "cc": "cc", "bcc": "bcc", "reply-to": "reply_to"}
_WHOLE = {
    "multipart/signed": "is signed",
    "multipart/encrypted": "is encrypted",
    "multipart/report": "is a report",
}
_WHOLE_ALONE = {
    "application/pkcs7-mime": "is signed or encrypted",
    "application/x-pkcs7-mime": "is signed or encrypted",
    "message/partial": "is a piece of a message",
}


def read(message: object) -> dict[str, Any]:
    """The mapping that ``send()`` takes, from a stdlib message of any policy.

    Raises ``InvalidEmail``.
    """
    from email.message import Message

    if not isinstance(message, Message):
        problem = "must be a mapping, an Email or an email.message.EmailMessage"
        raise InvalidEmail("email", f"{problem}, not {type(message).__name__}")
    try:
        return _mapping(message)
    except InvalidEmail:
        raise
    except Exception as error:  # noqa: BLE001  # the library raises anything on malformed messages
        raise InvalidEmail(
            "email", f"cannot be read ({type(error).__name__}): give a mapping"
        ) from None


def _mapping(message: Part) -> dict[str, Any]:
    _check_headers(message)
    mapping = _headers(message)
    content = _Content()
    content.add(_node(message, 0), is_body=True)
    mapping["text"] = _text(content.text, "text")
    mapping["html"] = _text(content.html, "html")
    if content.text is None and content.html is None:
        mapping["text"] = ""  # a file alone, or another form alone
    mapping["alternatives"] = [
        _alternative(leaf, f"alternatives[{n}]") for n, leaf in enumerate(content.alternatives)
    ]
    shown_ids = _shown_ids(mapping["html"] or "")
    mapping["attachments"] = [
        _attachment(leaf, f"attachments[{n}]", shown_ids) for n, leaf in enumerate(content.files)
    ]
    return mapping


def read_file(part: Part, field: str, html: str) -> dict[str, Any]:
    """An attachment's mapping, from a stdlib part that is a file; the ``html`` may show it.

    Raises ``InvalidEmail``, and whatever the library raises on a malformed part.
    """
    _check_headers(part)
    return _attachment(_node(part, 1), field, _shown_ids(html))


# Headers -----------------------------------------------------------------------------------------


def _check_headers(message: Part) -> None:
    """Refuse line breaks that do not fold, and headers that take the library too long.

    For the parameters of a type or disposition it takes the square of the length, many times over.
    """
    effort = 0
    for part in message.walk():
        for name, raw in part.raw_items():
            check(name, raw, _field(name))
            if name.lower().startswith("content-"):
                effort += len(str(raw)) ** 2
    if effort > _MAX_EFFORT:
        raise InvalidEmail("email", "has parts with too long Content-* headers: shorten them")


def _field(header: str) -> str:
    """The field of an e-mail that a header stands for."""
    fields = _ADDRESSES | {"subject": "subject"}
    return fields.get(header.lower(), f"headers.{header}")


def _headers(message: Part) -> dict[str, Any]:
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
            raise InvalidEmail(field, "is given more than once: give it once")
        elif structured.has_addresses(name):
            mapping["headers"][name] = ", ".join(mailboxes(text, field))
        else:
            mapping["headers"][name] = free_text(text, field)
    senders = mapping.pop("from", [])
    if len(senders) > 1:
        raise InvalidEmail("from", "contains several addresses: give one")
    return mapping | {"from": next(iter(senders), None)}


# The tree of parts -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    """One part, its type and disposition read; ``parts`` of a multipart."""

    part: Part
    kind: str
    type: Parameters
    disposition: Parameters
    parts: list[_Node] = field(default_factory=list)

    @property
    def is_multipart(self) -> bool:
        return self.kind.startswith("multipart/")

    @property
    def is_file(self) -> bool:
        return self.disposition.value.lower() == "attachment"

    def rank(self) -> int:
        """How well the part would do as the body: 0 is best, 3 is not at all."""
        if self.kind in ("multipart/alternative", "multipart/related"):
            return 0
        if self.is_multipart:
            return min((part.rank() for part in self.parts), default=3)
        if self.is_file or not self.kind.startswith("text/"):
            return 3
        return 1 if self.kind in ("text/plain", "text/html") else 2


def _node(part: Part, depth: int) -> _Node:
    if depth > _MAX_DEPTH:
        raise InvalidEmail("email", f"has parts nested too deeply: {_MAX_DEPTH} levels are allowed")
    kind, disposition = (_parameters(part, f"Content-{it}") for it in ("Type", "Disposition"))
    name = kind.value.lower()
    node = _Node(
        part, name if _TYPE.fullmatch(name) else part.get_default_type(), kind, disposition
    )
    problem = _WHOLE.get(node.kind) or (None if depth else _WHOLE_ALONE.get(node.kind))
    if problem:
        raise InvalidEmail(
            "email", f"{problem}, which mailqueue cannot keep: attach it as a message"
        )
    if node.is_multipart and not part.is_multipart():
        raise InvalidEmail("email", "has a multipart without parts: add them")
    if node.is_multipart:
        node.parts = [_node(each, depth + 1) for each in part.get_payload()]
    return node


def _parameters(part: Part, header: str) -> Parameters:
    raw = next((raw for name, raw in part.raw_items() if name.lower() == header.lower()), None)
    return parameters("" if raw is None else source(raw, f"headers.{header}"))


@dataclass(slots=True)
class _Content:
    """The parts that were added so far, each in the place that it has in an e-mail."""

    text: _Node | None = None
    html: _Node | None = None
    alternatives: list[_Node] = field(default_factory=list)
    files: list[_Node] = field(default_factory=list)

    def add(self, node: _Node, *, is_body: bool) -> None:
        """Add a part; ``is_body``: it stands in the place of the body."""
        if not node.is_multipart:
            self._add_leaf(node, is_body=is_body)
        elif node.kind == "multipart/alternative":  # all are the same content, in several forms
            for each in node.parts:
                self.add(each, is_body=is_body)
        else:  # mixed, related or of an unknown kind, which is read as mixed (RFC 2046)
            body = _body_of(node) if is_body else None
            for each in node.parts:
                self.add(each, is_body=each is body)

    def _add_leaf(self, leaf: _Node, *, is_body: bool) -> None:
        # The first text and the first HTML of the body; a second one of a kind has no field, and is
        # kept as a file.
        if leaf.rank() == 3 or not is_body:
            self.files.append(leaf)
        elif leaf.kind == "text/plain" and self.text is None:
            self.text = leaf
        elif leaf.kind == "text/html" and self.html is None:
            self.html = leaf
        elif leaf.rank() == 2:
            self.alternatives.append(leaf)
        else:
            self.files.append(leaf)


def _body_of(node: _Node) -> _Node | None:
    """The part of a multipart that is its body; None: all are files."""
    if node.kind == "multipart/related":
        start = node.type.by_name.get("start")
        roots = (each for each in node.parts if start and _content_id(each) == start.strip("<> "))
        return next(roots, node.parts[0] if node.parts else None)
    best = min(node.parts, key=_Node.rank, default=None)
    return best if best and best.rank() < 3 else None


# One part ----------------------------------------------------------------------------------------


def _octets(leaf: _Node, field: str) -> bytes:
    """The content, without its transfer encoding."""
    from email.errors import InvalidBase64CharactersDefect, InvalidBase64LengthDefect

    part = leaf.part
    encoding = str(part.get("Content-Transfer-Encoding", "7bit")).strip().lower()
    if encoding not in _ENCODINGS:
        raise InvalidEmail(field, _BROKEN_ENCODING)
    if leaf.kind.startswith("message/"):
        return _message(part, encoding, field)
    raw: str = part.get_payload() or ""
    octets: bytes = part.get_payload(decode=True) or b""
    lossy = (InvalidBase64CharactersDefect, InvalidBase64LengthDefect)
    if any(isinstance(defect, lossy) for defect in part.defects):
        raise InvalidEmail(field, _BROKEN_ENCODING)
    # set_payload() got text outside ASCII without a charset: the library makes backslash escapes.
    if not raw.isascii() and max(raw) > "\xff" and octets == raw.encode("raw-unicode-escape"):
        raise InvalidEmail(field, "has characters outside its transfer encoding: use set_content()")
    return octets


def _message(part: Part, encoding: str, field: str) -> bytes:
    """An attached message as it was parsed: the library would change how its headers are folded."""
    inner = part.get_payload()
    if isinstance(inner, list) and part.get_content_subtype() == "rfc822":
        octets = message_bytes(inner[0])
    else:
        octets = message_bytes(part).partition(b"\r\n\r\n")[2]
    try:
        if encoding == "base64":
            return b64decode(b"".join(octets.split()), validate=True)
        return a2b_qp(octets) if encoding == "quoted-printable" else octets
    except BadBase64:
        raise InvalidEmail(field, _BROKEN_ENCODING) from None


def message_bytes(message: Part) -> bytes:
    """The message's bytes. Its ``as_bytes()`` is not used: Django's messages have another one."""
    from email.generator import BytesGenerator
    from email.policy import EmailPolicy

    policy = message.policy
    changes: dict[str, Any] = {"linesep": "\r\n", "mangle_from_": False, "max_line_length": None}
    if isinstance(policy, EmailPolicy):
        changes["refold_source"] = "none"
    buffer = BytesIO()
    BytesGenerator(buffer, policy=policy.clone(**changes)).flatten(message)
    return buffer.getvalue()


def _text(leaf: _Node | None, field: str) -> str | None:
    if leaf is None:
        return None
    try:
        text = decode(_octets(leaf, field), leaf.type.by_name.get("charset") or "us-ascii")
    except (LookupError, UnicodeError):
        raise InvalidEmail(field, "cannot be decoded by its charset: use UTF-8") from None
    if leaf.kind == "text/plain" and leaf.type.by_name.get("format", "").lower() == "flowed":
        return "".join(_unwrap(text, leaf.type.by_name.get("delsp", "").lower() == "yes"))
    return text


def _unwrap(text: str, delete_space: bool) -> Iterator[str]:
    """A flowed text (RFC 3676) with its soft line breaks taken out."""
    depth, paragraph = 0, ""
    for line in text.replace("\r\n", "\n").removesuffix("\n").split("\n"):
        quotes = len(_QUOTES.match(line)[0])  # type: ignore[index]  # it matches anything
        content = line[quotes:].removeprefix(" ")
        if paragraph and (quotes != depth or content == "-- "):
            yield f"{_quote(depth, paragraph)}\n"  # a soft break that nothing may follow
            paragraph = ""
        depth = quotes
        if content.endswith(" ") and content != "-- ":
            paragraph += content[:-1] if delete_space else content
        else:
            yield f"{_quote(depth, paragraph + content)}\n"
            paragraph = ""
    if paragraph:
        yield _quote(depth, paragraph)


def _quote(depth: int, line: str) -> str:
    return f"{'>' * depth} {line}" if depth else line


def _shown_ids(html: str) -> frozenset[str]:
    """The ids of files that the HTML shows."""
    content_ids = _CID.findall(html)
    return frozenset(content_ids).union(map(unquote, content_ids))


def _alternative(leaf: _Node, field: str) -> dict[str, Any]:
    return {"content": _octets(leaf, field), "content_type": _content_type(leaf)}


def _attachment(leaf: _Node, field: str, shown_ids: Collection[str]) -> dict[str, Any]:
    content_id = _content_id(leaf)
    # Some programs give every attachment an id; shown are only those that the HTML asks for.
    if leaf.is_file and content_id not in shown_ids:
        content_id = ""
    name = leaf.disposition.by_name.get("filename") or leaf.type.by_name.get("name")
    return {
        "filename": name,
        "content": _octets(leaf, field),
        "content_type": _content_type(leaf),
        "content_id": content_id or None,
    }


def _content_id(leaf: _Node) -> str:
    return str(leaf.part.get("Content-ID", "")).strip().removeprefix("<").removesuffix(">")


def _content_type(leaf: _Node) -> str:
    """Type and parameters, without the file's name, which has its own field."""
    others = {key: value for key, value in leaf.type.by_name.items() if key != "name"}
    return leaf.kind + "".join(f'; {key}="{escape(value)}"' for key, value in others.items())

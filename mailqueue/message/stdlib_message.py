"""A message of the standard library, as the mapping that ``send()`` takes.

Decides: what each part of an ``email.message.EmailMessage`` (or an older ``Message``) means: which
is the text, which the HTML, which another form of both, and which a file.

May assume: nothing about the message. Headers are read by ``raw_headers`` and ``parameters``, not
by the library's own parser.

Promises: nothing is lost silently: what cannot be kept is ``InvalidEmail``. Only a message's own
``Date``, ``MIME-Version`` and ``Content-*`` are dropped, since mailqueue makes these anew. What the
RFCs ask for:

* The parts of ``multipart/mixed`` are independent (RFC 2046): one of them is the body, the others
  are files, in their order, be they text or not. The body is the first that has several forms,
  else the first text.
* ``multipart/alternative``: plain text, HTML, and other text (an invitation, AMP, Markdown) as an
  alternative of both.
* ``multipart/related``: its root is the body, the others are files that the HTML may show.
* Signed and encrypted messages (S/MIME in one part, too) and reports are refused: taken apart,
  they would be none.
* A flowed text (RFC 3676) is unwrapped. An attached message stays as it is, but for line ends.
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
from mailqueue.message.headers import escaped
from mailqueue.message.mime import GENERATED
from mailqueue.message.parameters import Parameters, parameters
from mailqueue.message.raw_headers import check, free_text, mailboxes, source

# An email.message.Message: what its methods give depends on how it was made, whatever is annotated.
Part = Any
_CID = re.compile(r"""cid:([^\s"'<>)]+)""")
_TYPE = re.compile(r"[!#$&^_.+a-z0-9-]+/[!#$&^_.+a-z0-9-]+")
_QUOTES = re.compile(r">*")
_EFFORT = 50_000_000  # the square of 7,000 characters
_DEEPEST = 50
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
    except Exception as error:  # noqa: BLE001 - on malformed messages the library raises anything
        raise InvalidEmail("email", f"cannot be read ({type(error).__name__})") from None


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
    shown = _shown(mapping["html"] or "")
    mapping["attachments"] = [
        _attachment(leaf, f"attachments[{n}]", shown) for n, leaf in enumerate(content.files)
    ]
    return mapping


# Headers -----------------------------------------------------------------------------------------


def _check_headers(message: Part) -> None:
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
            raise InvalidEmail(field, "given more than once")
        elif structured.has_addresses(name):
            mapping["headers"][name] = ", ".join(mailboxes(text, field))
        else:
            mapping["headers"][name] = free_text(text, field)
    senders = mapping.pop("from", [])
    if len(senders) > 1:
        raise InvalidEmail("from", "must be one address")
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
        """How well it would do as the body; the least is the best, 3 is not at all."""
        if self.kind in ("multipart/alternative", "multipart/related"):
            return 0
        if self.is_multipart:
            return min((part.rank() for part in self.parts), default=3)
        if self.is_file or not self.kind.startswith("text/"):
            return 3
        return 1 if self.kind in ("text/plain", "text/html") else 2


def _node(part: Part, depth: int) -> _Node:
    if depth > _DEEPEST:
        raise InvalidEmail("email", "has parts that are nested too deeply")
    kind, disposition = (_parameters(part, f"Content-{it}") for it in ("Type", "Disposition"))
    name = kind.value.lower()
    node = _Node(
        part, name if _TYPE.fullmatch(name) else part.get_default_type(), kind, disposition
    )
    problem = _WHOLE.get(node.kind) or (None if depth else _WHOLE_ALONE.get(node.kind))
    if node.is_multipart and not part.is_multipart():
        problem = problem or "has a multipart without parts"
    if problem:
        raise InvalidEmail("email", f"{problem}: taken apart, it would not be kept")
    if node.is_multipart:
        node.parts = [_node(each, depth + 1) for each in part.get_payload()]
    return node


def _parameters(part: Part, header: str) -> Parameters:
    raw = next((raw for name, raw in part.raw_items() if name.lower() == header.lower()), None)
    return parameters("" if raw is None else source(raw, f"headers.{header}"))


@dataclass(slots=True)
class _Content:
    """What the parts are, as far as they have been looked at."""

    text: _Node | None = None
    html: _Node | None = None
    alternatives: list[_Node] = field(default_factory=list)
    files: list[_Node] = field(default_factory=list)

    def add(self, node: _Node, *, is_body: bool) -> None:
        """Take a part for what it is; ``is_body``: it stands where the body does."""
        if not node.is_multipart:
            self._add_leaf(node, is_body=is_body)
        elif node.kind == "multipart/alternative":
            for each in node.parts:
                self.add(each, is_body=is_body)
        else:
            body = _body_of(node) if is_body else None
            for each in node.parts:
                self.add(each, is_body=each is body)

    def _add_leaf(self, leaf: _Node, *, is_body: bool) -> None:
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
        start = node.type.named.get("start")
        roots = (each for each in node.parts if start and _content_id(each) == start.strip("<> "))
        return next(roots, node.parts[0] if node.parts else None)
    best = min(node.parts, key=_Node.rank, default=None)
    return best if best and best.rank() < 3 else None


# One part ----------------------------------------------------------------------------------------


def _octets(leaf: _Node, field: str) -> bytes:
    """The content, its transfer encoding taken off."""
    from email.errors import InvalidBase64CharactersDefect, InvalidBase64LengthDefect

    part = leaf.part
    encoding = str(part.get("Content-Transfer-Encoding", "7bit")).strip().lower()
    if encoding not in _ENCODINGS:
        raise InvalidEmail(field, "has a broken transfer encoding")
    if leaf.kind.startswith("message/"):
        return _message(part, encoding, field)
    raw: str = part.get_payload() or ""
    octets: bytes = part.get_payload(decode=True) or b""
    lossy = (InvalidBase64CharactersDefect, InvalidBase64LengthDefect)
    if any(isinstance(defect, lossy) for defect in part.defects):
        raise InvalidEmail(field, "has a broken transfer encoding")
    # set_payload() with bare non-ASCII text: the library would put backslash escapes in its place.
    if not raw.isascii() and max(raw) > "\xff" and octets == raw.encode("raw-unicode-escape"):
        raise InvalidEmail(field, "has characters outside its transfer encoding")
    return octets


def _message(part: Part, encoding: str, field: str) -> bytes:
    """An attached message as it was parsed; the library would fold and encode its headers anew."""
    inner = part.get_payload()
    if isinstance(inner, list) and part.get_content_subtype() == "rfc822":
        octets = _as_parsed(inner[0])
    else:
        octets = _as_parsed(part).partition(b"\r\n\r\n")[2]
    try:
        if encoding == "base64":
            return b64decode(b"".join(octets.split()), validate=True)
        return a2b_qp(octets) if encoding == "quoted-printable" else octets
    except BadBase64:
        raise InvalidEmail(field, "has a broken transfer encoding") from None


def _as_parsed(message: Part) -> bytes:
    """Not by its ``as_bytes()``: Django's messages have one of their own, without a policy."""
    from email.generator import BytesGenerator
    from email.policy import EmailPolicy

    known = message.policy
    changes: dict[str, Any] = {"linesep": "\r\n", "mangle_from_": False, "max_line_length": None}
    if isinstance(known, EmailPolicy):
        changes["refold_source"] = "none"
    written = BytesIO()
    BytesGenerator(written, policy=known.clone(**changes)).flatten(message)
    return written.getvalue()


def _text(leaf: _Node | None, field: str) -> str | None:
    if leaf is None:
        return None
    try:
        text = _octets(leaf, field).decode(leaf.type.named.get("charset") or "us-ascii")
    except (LookupError, UnicodeError):
        raise InvalidEmail(field, "cannot be decoded by its charset") from None
    if leaf.kind == "text/plain" and leaf.type.named.get("format", "").lower() == "flowed":
        return "".join(_unwrapped(text, leaf.type.named.get("delsp", "").lower() == "yes"))
    return text


def _unwrapped(text: str, delete_space: bool) -> Iterator[str]:
    """A flowed text (RFC 3676) with its soft line breaks taken out."""
    depth, paragraph = 0, ""
    for line in text.replace("\r\n", "\n").removesuffix("\n").split("\n"):
        quotes = len(_QUOTES.match(line)[0])  # type: ignore[index]  # it matches anything
        content = line[quotes:].removeprefix(" ")
        if paragraph and (quotes != depth or content == "-- "):
            yield f"{_quoted(depth, paragraph)}\n"  # a soft break that nothing may follow
            paragraph = ""
        depth = quotes
        if content.endswith(" ") and content != "-- ":
            paragraph += content[:-1] if delete_space else content
        else:
            yield f"{_quoted(depth, paragraph + content)}\n"
            paragraph = ""
    if paragraph:
        yield _quoted(depth, paragraph)


def _quoted(depth: int, line: str) -> str:
    return f"{'>' * depth} {line}" if depth else line


def _shown(html: str) -> frozenset[str]:
    """The ids of files that the HTML shows."""
    found = _CID.findall(html)
    return frozenset(found).union(map(unquote, found))


def _alternative(leaf: _Node, field: str) -> dict[str, Any]:
    return {"content": _octets(leaf, field), "content_type": _content_type(leaf)}


def _attachment(leaf: _Node, field: str, shown: Collection[str]) -> dict[str, Any]:
    content_id = _content_id(leaf)
    # Some programs give every attachment an id: it is inline if it says so, or the HTML shows it.
    if leaf.is_file and content_id not in shown:
        content_id = ""
    name = leaf.disposition.named.get("filename") or leaf.type.named.get("name")
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
    named = {key: value for key, value in leaf.type.named.items() if key != "name"}
    return leaf.kind + "".join(f'; {key}="{escaped(value)}"' for key, value in named.items())

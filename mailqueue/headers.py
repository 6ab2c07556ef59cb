"""What may stand in a header: safe values, encoded words, mailboxes.

Decides: which values are refused (``unsafe``), what a legal address is (``Address.parse``), and how
names and texts look on the wire.

May assume: nothing; both the producer and the last step before the wire come here.

Promises: what is parsed and formatted again is equal; what is encoded reads back as the very same
text. Addresses are dot-atoms at a domain of letter-digit-hyphen labels: no quoted local parts, no
address literals, one address per entry. IDN domains are kept as given (``Address.ascii`` is what
goes out); a non-ASCII mailbox is legal, each vendor says whether it takes it.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from mailqueue.errors import InvalidEmail

FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")
"""RFC 5322 ftext, of a length that leaves room for a value on the line."""

_FORBIDDEN = re.compile("[\r\n\0\ud800-\udfff]")
_ENCODED_WORD = re.compile(r"(?==\?([^?]*)\?([bq])\?)", re.IGNORECASE)
_BEGINNING = re.compile(r"=\?[A-Za-z0-9_.:*-]{1,40}\?[bq]\?", re.IGNORECASE | re.ASCII)
_INSPECTED = 20_000  # characters; a longer value with encoded words is refused
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
_SPECIAL = r"\x00-\x1f\x7f()<>\[\]:;@\\,.\"\s"
_ATOMS = re.compile(rf"[^{_SPECIAL}]+( [^{_SPECIAL}]+)*")
_VISIBLE = re.compile(r"[!-~]([ -~\t]*[!-~])?")
_SPACES = re.compile("[ \t]+")
_PIECE = re.compile(r"[ \t]*[^ \t]+")
_SHORT = 60  # a longer name is encoded, so that it can be folded anywhere
_LONG = 900  # so is a text with a single word of this length
_WORD = 45  # octets in one encoded word: 60 base64 characters and 12 around them

_BARE_NAME = re.compile(r'[^,;<>"\\]*')
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')
_LOCAL = re.compile(rf"[^{_SPECIAL}]+(\.[^{_SPECIAL}]+)*")
_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")


def forbidden(value: str) -> str | None:
    """Why a value can stand in no header, encoded or not; None: it can."""
    if not _FORBIDDEN.search(value):
        return None
    if any(char in value for char in "\r\n\0"):
        return "contains a line break or NUL"
    return "contains a lone surrogate"


def unsafe(value: str) -> str | None:
    """Why a value that was handed in may not stand in a header; None: it may.

    Encoded words are looked into as well: Python's own parser turns ``=?utf-8?q?=0D=0ABcc:...?=``
    into a real Bcc header (cpython 121650), and other software may do the same. What is looked at
    is bounded by the length of the value; what would need more is refused.
    """
    problem = forbidden(value)
    if problem or "=?" not in value:
        return problem
    left = 5_000 + 8 * len(value) if len(value) <= _INSPECTED else 0  # characters to decode
    texts, seen = [value], set()
    for text in texts:
        for charset, decode, source in _encoded_words(text):
            left -= 8 + len(source)
            if left < 0:
                return "contains too many encoded words"
            octets = decode(source)
            if (charset, octets) in seen:
                continue
            seen.add((charset, octets))
            readings = _readings(octets, charset)
            if any(map(_FORBIDDEN.search, readings)):
                return "contains a line break or NUL in an encoded word"
            texts += [reading for reading in readings if "=?" in reading]
    return None


def header_text(value: object, field: str) -> str:
    """The value, if it is text that may stand in a header."""
    if not isinstance(value, str):
        raise InvalidEmail(field, f"must be a string, not {type(value).__name__}")
    problem = unsafe(value)
    if problem:
        raise InvalidEmail(field, problem)
    return value


def _encoded_words(text: str) -> Iterator[tuple[str, Callable[[str], bytes], str]]:
    """All that a reader, however lenient, may take for an encoded word: charset, decoder, source.

    Such a reader may see a word in "Q" end anywhere, and one in "B" at any question mark.
    """
    quoted = None
    charsets = set()
    for found in _ENCODED_WORD.finditer(text):
        charset, start = found[1].partition("*")[0][:40].lower(), found.end(2) + 1
        word = _until(text, start, "?=")
        if found[2] in "qQ":
            quoted = text[start:] if quoted is None else quoted
            charsets.add(charset)
            yield charset, _loose_quoted, word
        else:
            yield charset, _loose_base64, word
            yield charset, _loose_base64, _until(word, 0, "?")
    rest = _BEGINNING.sub("", quoted or "")
    yield from ((charset, _loose_quoted, rest) for charset in sorted(charsets))


def _until(text: str, start: int, end: str) -> str:
    found = text.find(end, start)
    return text[start:] if found < 0 else text[start:found]


def _readings(octets: bytes, charset: str) -> list[str]:
    """As the charset has it, and by the ASCII in it, which only becomes less with each reading."""
    readings = [octets.decode("ascii", "ignore")]
    with suppress(LookupError, ValueError):  # a charset that Python does not know or cannot apply
        readings.append(octets.decode(charset, "replace"))
    return readings


def _loose_quoted(rest: str) -> bytes:
    octets = rest.replace("_", " ").encode("ascii", "ignore")
    return _HEX.sub(lambda found: bytes([int(found[1], 16)]), octets)


def _loose_base64(rest: str) -> bytes:
    digits = _NOT_BASE64.sub(b"", rest.encode("ascii", "ignore"))
    whole = digits[: len(digits) - (len(digits) % 4 == 1)]
    return binascii.a2b_base64(whole + b"=" * (-len(whole) % 4))


def phrase(name: str) -> str:
    """A display name in its canonical form: bare where the grammar allows it, else quoted."""
    if _ATOMS.fullmatch(name) and "=?" not in name:
        return name
    return f'"{escaped(name)}"'


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def mailbox(name: str, address: str) -> str:
    """One mailbox as it stands in a header."""
    if not name:
        return address
    return f"{phrase(name) if plain(name) else _encoded(name)} <{address}>"


def plain(value: str) -> bool:
    """Whether a short value can stand in a quoted string as it is."""
    return len(value) <= _SHORT and bool(_VISIBLE.fullmatch(value)) and "=?" not in value


def unstructured(value: str) -> str:
    """A subject or the like as it stands in a header; it reads back as the very same text."""
    if not value or (
        _VISIBLE.fullmatch(value)
        and "=?" not in value
        and all(len(piece) < _LONG for piece in _PIECE.findall(value))
    ):
        return value
    return _encoded(value)


def _encoded(value: str) -> str:
    """RFC 2047 words: base64 of UTF-8, never splitting a character."""
    words = (b64encode(chunk).decode() for chunk in chunks(value, _WORD))
    return " ".join(f"=?utf-8?b?{word}?=" for word in words)


def chunks(value: str, size: int) -> Iterator[bytes]:
    """UTF-8 in pieces of at most ``size`` octets that split no character."""
    chunk = b""
    for char in value:
        octets = char.encode()
        if len(chunk) + len(octets) > size:
            yield chunk
            chunk = b""
        chunk += octets
    yield chunk


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """A mailbox and the name to show with it; ``str()`` is its RFC 5322 form, not yet encoded."""

    name: str
    address: str

    def __str__(self) -> str:
        return f"{phrase(self.name)} <{self.address}>" if self.name else self.address

    def __repr__(self) -> str:
        return "Address(...)"

    @property
    def ascii(self) -> str:
        """The address with its domain encoded (IDNA 2008); the local part stays as it is."""
        if self.address.isascii():
            return self.address
        local, _, domain = self.address.rpartition("@")
        return f"{local}@{_idna(domain)}"

    @property
    def is_ascii_mailbox(self) -> bool:
        """Whether the local part is ASCII: most vendors refuse others."""
        return self.address.isascii() or self.address.rpartition("@")[0].isascii()

    @classmethod
    def parse(cls, value: object, field: str = "address") -> Address:
        """One address, as text (``Ann <ann@example.org>``) or as an ``Address``, checked."""
        if isinstance(value, Address):
            name, address = value.name, header_text(value.address, field)
        else:
            name, address = _split(header_text(value, field).strip(), field)
        _check_address(address, field)
        if name == "":
            return cls(name, address)
        return cls(_SPACES.sub(" ", header_text(name, field)).strip(), address)

    @classmethod
    def trusted(cls, text: str) -> Address:
        """The same from its canonical form, unchecked."""
        if not text.endswith(">"):
            return cls("", text)
        name, _, address = text[:-1].rpartition(" <")
        return cls(_unquoted(name) if name.startswith('"') else name, address)


def _split(text: str, field: str) -> tuple[str, str]:
    """Display name and address; whatever could be two addresses is refused."""
    if not text.endswith(">"):
        return "", text
    name, _, address = text[:-1].rpartition("<")
    name = name.rstrip()
    if _QUOTED_NAME.fullmatch(name):
        return _unquoted(name), address
    if not _BARE_NAME.fullmatch(name):
        raise InvalidEmail(field, "must be one address; quote a display name with punctuation")
    return (_decoded_name(name) if "=?" in name else name), address


def _unquoted(name: str) -> str:
    return re.sub(r"\\(.)", r"\1", name[1:-1])


def _decoded_name(name: str) -> str:
    from email.header import decode_header, make_header

    try:
        return str(make_header(decode_header(name)))
    except (LookupError, ValueError, UnicodeError):
        return name


def _check_address(address: str, field: str) -> None:
    local, _, domain = address.rpartition("@")
    if not _LOCAL.fullmatch(local) or not local.isprintable():
        raise InvalidEmail(field, "is not one valid e-mail address")
    try:
        encoded = domain if domain.isascii() else _idna(domain)
    except UnicodeError:
        raise InvalidEmail(field, "has a domain that IDNA 2008 does not allow") from None
    if not _DOMAIN.fullmatch(encoded):
        raise InvalidEmail(field, "has no valid domain")
    octets = len(local.encode())
    if octets > 64 or octets + 1 + len(encoded) > 254:
        raise InvalidEmail(field, "is longer than 64 octets before the @ or 254 in all")


def _idna(domain: str) -> str:
    import idna

    return idna.encode(domain, uts46=True).decode()

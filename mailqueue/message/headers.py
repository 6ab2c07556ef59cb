"""What may stand in a header: safe values, encoded words, mailboxes.

Decides: which values are refused (``unsafe``), what a legal address is (``Address.parse``), and how
names and texts look on the wire.

May assume: nothing; both the producer and the last step before the wire come here.

Promises: what is parsed and formatted again is equal; what is encoded reads back as the very same
text. Addresses are dot-atoms, or a quoted string, at a domain of letter-digit-hyphen labels: no
address literals, no comments, one address per entry. IDN domains are kept as given
(``Address.ascii`` is what goes out); a non-ASCII or quoted mailbox is legal, each vendor says
whether it takes it. What is read costs time and memory in proportion to its length.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mailqueue.errors import InvalidEmail

FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")
"""RFC 5322 ftext, of a length that leaves room for a value on the line."""

_FORBIDDEN = re.compile("[\r\n\0\ud800-\udfff]")
_ENCODED_WORD = re.compile(r"(?==\?([^?]*)\?([bq])\?)", re.IGNORECASE)
_WORD_PROPER = re.compile(r"=\?([^?\s]{1,60})\?([bq])\?([ ->@-~\t]*)\?=", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_BEGINNING = re.compile(r"=\?[A-Za-z0-9_.:*-]{1,40}\?[bq]\?", re.IGNORECASE | re.ASCII)
_INSPECTED = 20_000  # characters; a longer value with encoded words is refused
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
_DOTLESS = r"\x00-\x1f\x7f()<>\[\]:;@\\,\"\s"
_SPECIAL = rf"{_DOTLESS}."
_ATOMS = re.compile(rf"[^{_SPECIAL}]+( [^{_SPECIAL}]+)*")
_VISIBLE = re.compile(r"[!-~]([ -~\t]*[!-~])?")
_SPACES = re.compile("[ \t]+")
_PIECE = re.compile(r"[ \t]+[^ \t]*")
LINE = 998
"""Octets in a line, without its end (RFC 5322)."""

_SHORT = 60  # a longer name is encoded, so that it can be folded anywhere
_WORD = 45  # octets in one encoded word: 60 base64 characters and 12 around them

_NAME = re.compile(r'(?:[^,;<>"\\]|"[^"\\]*(?:\\.[^"\\]*)*")*')
_QUOTES = re.compile(r'"[^"\\]*(?:\\.?[^"\\]*)*"?|[^"]+')  # matches anything, to the end
_COMMA = re.compile("[,;]")
_ESCAPED = re.compile(r"\\(.)")
_LOCAL = re.compile(rf"[^{_SPECIAL}]+(\.[^{_SPECIAL}]+)*")
_DOTTED = re.compile(rf"[^{_SPECIAL}][^{_DOTLESS}]*")
_QUOTED_LOCAL = re.compile(r'"(?:[^"\\<>]|\\[^<>])+"')
_LOCAL_OCTETS = 64
_LOCAL_LENGTH = 130  # before quotes that are not needed are taken off; 64 octets count
_DOMAIN_LENGTH = 254
_TOO_LONG = "is longer than 64 octets before the @ or 254 in all"
_LONGEST = 5_000
SEVERAL = "contains several addresses: pass a list"
_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_USUAL = re.compile(rf"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@{_DOMAIN.pattern}")


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
    text = value if type(value) is str else plain_text(value, field)
    if "=?" not in text and not _FORBIDDEN.search(text):  # nearly always
        return text
    problem = unsafe(text)
    if problem:
        raise InvalidEmail(field, problem)
    return text


def plain_text(value: object, field: str) -> str:
    """The value as a ``str`` and nothing else."""
    if type(value) is str:
        return value
    if isinstance(value, Enum) and isinstance(value, str):
        return str.__str__(value)  # str() of some is the name of the member
    if is_text(value):
        return str.__str__(str(value))
    raise InvalidEmail(field, f"must be a string, not {type(value).__name__}")


def is_text(value: Any) -> bool:
    """Whether it is a ``str``, derives from it, or stands for one until it is asked.

    The last is a lazy translation, say: it is no ``str`` but has the methods of one, and they work.
    """
    if isinstance(value, str):
        return True
    try:
        return isinstance(value.encode(), bytes)
    except Exception:  # noqa: BLE001  # whatever the object does when it is asked
        return False


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
    return f"{phrase(name) if plain(name) else encoded_words(name)} <{address}>"


def mailboxes(people: Iterable[Address]) -> str:
    """Mailboxes as they stand in a header."""
    return ", ".join(mailbox(person.name, person.ascii) for person in people)


def plain(value: str) -> bool:
    """Whether a short value can stand in a quoted string as it is."""
    return len(value) <= _SHORT and bool(_VISIBLE.fullmatch(value)) and "=?" not in value


def unstructured(value: str) -> str:
    """A subject or the like as it stands in a header; it reads back as the very same text."""
    if not value or (visible(value) and "=?" not in value and max(map(len, pieces(value))) <= LINE):
        return value
    return encoded_words(value)


def visible(value: str) -> bool:
    """Whether it is printable ASCII, with blanks only inside."""
    return bool(_VISIBLE.fullmatch(value))


def pieces(value: str) -> list[str]:
    """What cannot be folded, each with the blanks before it."""
    return _PIECE.findall(f" {value}") if value else []


def encoded_words(value: str) -> str:
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
    def identity(self) -> str:
        """The same for the same mailbox, however its domain is spelt; the local part is exact."""
        local, _, domain = self.ascii.rpartition("@")
        if not local.isascii():
            from unicodedata import normalize

            local = normalize("NFC", local)
        return f"{local}@{domain.lower()}"

    @property
    def is_ascii_mailbox(self) -> bool:
        """Whether the local part is ASCII: most vendors refuse others."""
        return self.address.isascii() or self.address.rpartition("@")[0].isascii()

    @classmethod
    def parse(cls, value: object, field: str = "address") -> Address:
        """One address, checked: text (``Ann <ann@example.org>``), ``Address``, or (name, address).

        Raises ``InvalidEmail``.
        """
        if isinstance(value, Address):
            value = (value.name, value.address)
        if isinstance(value, tuple):
            name, address = _pair(value, field)
        else:
            name, address = _split(header_text(value, field).strip(), field)
        if name:
            name = _SPACES.sub(" ", name).strip()
        return cls(name, _addr_spec(address, field))

    @classmethod
    def trusted(cls, text: str) -> Address:
        """The same from its canonical form, unchecked."""
        if not text.endswith(">"):
            return cls("", text)
        name, _, address = text[:-1].rpartition(" <")
        return cls(_unquoted(name) if name.startswith('"') else name, address)


def _pair(value: tuple[object, ...], field: str) -> tuple[str, str]:
    if len(value) != 2:  # a pair
        raise InvalidEmail(field, "must be an address, or a pair of name and address")
    name, address = ("" if part is None else header_text(part, field) for part in value)
    if len(name) > _LONGEST:
        raise InvalidEmail(field, f"has a name longer than {_LONGEST} characters")
    return name, address


def _split(text: str, field: str) -> tuple[str, str]:
    """Display name and address; whatever could be two addresses is refused."""
    if len(text) > _LONGEST:
        raise InvalidEmail(field, f"is longer than {_LONGEST} characters")
    if ("," in text or ";" in text) and sum("@" in part for part in parts(text)) > 1:
        raise InvalidEmail(field, SEVERAL)
    if not text.endswith(">"):
        return "", text
    name, _, address = text[:-1].rpartition("<")
    if not _NAME.fullmatch(name):
        raise InvalidEmail(field, "must be one address; quote a display name with punctuation")
    if '"' in name or "=?" in name:
        words = (_unquoted(w) if w[0] == '"' else decoded(w) for w in _QUOTES.findall(name))
        name = header_text("".join(words), field)
    return name, address


def parts(text: str) -> list[str]:
    """What stands between commas and semicolons that are in no quotes; nothing empty."""
    found: list[list[str]] = [[]]
    for run in _QUOTES.findall(text):
        first, *more = [run] if run[0] == '"' else _COMMA.split(run)
        found[-1].append(first)
        found += ([part] for part in more)
    joined = ("".join(runs).strip() for runs in found)
    return [part for part in joined if part]


def literal(text: str) -> str:
    """The same text with the encoded words in its quoted strings read.

    They are none there (RFC 2047), but many programs write them so.
    """
    if '"' not in text or "=?" not in text:
        return text
    runs = _QUOTES.findall(text)
    return "".join(f'"{escaped(decoded(_unquoted(r)))}"' if r[0] == '"' else r for r in runs)


def _unquoted(name: str) -> str:
    return _ESCAPED.sub(r"\1", name[1:-1])


def decoded(text: str) -> str:
    """The text with its encoded words read; it stays as it is if one cannot be read."""
    try:
        return decoded_words(text)
    except (LookupError, ValueError):
        return text


def decoded_words(text: str) -> str:
    """The text with its encoded words read (RFC 2047).

    Blanks between two words belong to neither, and a character may begin in one and end in the
    next. Raises ``LookupError`` or ``ValueError`` if one cannot be read.
    """
    found: list[str] = []
    charset, octets, end = "", [b""], 0
    for word in _WORD_PROPER.finditer(text):
        between, end = text[end : word.start()], word.end()
        language_free = word[1].partition("*")[0].lower()
        if between.strip(" \t") or language_free != charset:
            found.append(b"".join(octets).decode(charset or "ascii"))
            octets = []
        if between.strip(" \t") or not charset:
            found.append(between)
        charset = language_free
        octets.append(_word_octets(word[2], word[3]))
    found += [b"".join(octets).decode(charset or "ascii"), text[end:]]
    return "".join(found)


def _word_octets(kind: str, source: str) -> bytes:
    if kind in "qQ":
        return _loose_quoted(source)
    if not _BASE64.fullmatch(source):
        raise ValueError
    return _loose_base64(source)


def _addr_spec(address: str, field: str) -> str:
    """The address in its one form: quotes before the @ only where they are needed."""
    if len(address) <= _LOCAL_OCTETS and _USUAL.fullmatch(address):
        return address
    local, _, domain = address.rpartition("@")
    local = _local_part(local, field)
    if len(domain) > _DOMAIN_LENGTH:
        raise InvalidEmail(field, _TOO_LONG)
    try:
        encoded = domain if domain.isascii() else _idna(domain)
    except UnicodeError:
        raise InvalidEmail(field, "has a domain that IDNA 2008 does not allow") from None
    if not _DOMAIN.fullmatch(encoded):
        raise InvalidEmail(field, "has no valid domain")
    octets = len(local.encode())
    if octets > _LOCAL_OCTETS or octets + 1 + len(encoded) > 254:
        raise InvalidEmail(field, _TOO_LONG)
    return f"{local}@{domain}"


def _local_part(local: str, field: str) -> str:
    """Dots in a row or before the @ exist (docomo.ne.jp), though they need quotes (RFC 5321)."""
    if len(local) <= _LOCAL_LENGTH and local.isprintable():
        if _LOCAL.fullmatch(local):
            return local
        quoted = _QUOTED_LOCAL.fullmatch(local)
        content = _unquoted(local) if quoted else local
        if _LOCAL.fullmatch(content):
            return content
        if quoted or _DOTTED.fullmatch(content):
            return f'"{escaped(content)}"'
    raise InvalidEmail(field, "is not a valid e-mail address")


def _idna(domain: str) -> str:
    import idna

    return idna.encode(domain, uts46=True).decode()

"""What may stand in a header: safe values, encoded words, folding.

Decides: which values are refused (``header_problem``), and how names and texts look on the wire.

Assumes: nothing. The producer checks with these functions, and so does the last step before the
wire.

Promises: an encoded text reads back as the same text. Reading a value takes time and memory in
proportion to its length.
"""

from __future__ import annotations

import binascii
import codecs
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from typing import Any

from mailqueue.errors import InvalidEmail

FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")
"""RFC 5322 ftext, of a length that leaves room for a value on the line."""

_FORBIDDEN = re.compile("[\r\n\0\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONE_SURROGATE = "a lone surrogate, which UTF-8 cannot encode: remove it"
_ENCODED_WORD = re.compile(r"(?==\?([^?]*)\?([bq])\?)", re.IGNORECASE)
_WORD_PROPER = re.compile(r"=\?([^?\s]{1,60})\?([bq])\?([ ->@-~\t]*)\?=", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_BEGINNING = re.compile(r"=\?[A-Za-z0-9_.:*-]{1,40}\?[bq]\?", re.IGNORECASE | re.ASCII)
_INSPECTED = 20_000  # characters; a longer value with encoded words is refused
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
DOTLESS = r"\x00-\x1f\x7f()<>\[\]:;@\\,\"\s"
SPECIAL = rf"{DOTLESS}."
_ATOMS = re.compile(rf"[^{SPECIAL}]+( [^{SPECIAL}]+)*")
_VISIBLE = re.compile(r"[!-~]([ -~\t]*[!-~])?")
_PIECE = re.compile(r"[ \t]+[^ \t]*")
GENERATED = frozenset({"date", "mime-version"})
"""Header names (lower case) that mailqueue makes itself; so are all ``content-*``."""

LINE = 998
"""Octets in a line, without its end (RFC 5322)."""

_CHARSET_LENGTH = 60  # Python remembers all names that it was asked for
_SLOW = frozenset({"idna", "punycode"})
_NO_CHARSETS = _SLOW | {"unicode-escape", "raw-unicode-escape"}
_SHORT = 60  # a longer name is encoded, so that it can be folded anywhere
_WORD = 45  # octets in one encoded word: 60 base64 characters and 12 around them


def character_problem(value: str) -> str | None:
    """Why a value cannot stand in a header, encoded or not; None: it can."""
    if not _FORBIDDEN.search(value):
        return None
    if any(char in value for char in "\r\n\0"):
        return "contains a line break or NUL: remove it"
    return f"contains {_LONE_SURROGATE}"


def header_problem(value: str) -> str | None:
    """Why a value from outside may not stand in a header; None: it may.

    Encoded words are decoded and checked, too: Python's own parser turns
    ``=?utf-8?q?=0D=0ABcc:...?=`` into a real Bcc header (cpython 121650), and other software may do
    the same. What is decoded may contain encoded words again. The work is bounded by the length of
    the value; a value that needs more is refused.
    """
    problem = character_problem(value)
    if problem or "=?" not in value:
        return problem
    budget = 5_000 + 8 * len(value) if len(value) <= _INSPECTED else 0  # characters to decode
    texts, words = [value], set()  # ``words``: those that were checked, so that none counts twice
    for text in texts:  # it grows: a decoded text with encoded words in it is read in its turn
        for charset, decode, source in _encoded_words(text):
            budget -= 8 + len(source)
            if budget < 0:
                return "contains too many encoded words: give plain text"
            octets = decode(source)
            if (charset, octets) in words:
                continue
            words.add((charset, octets))
            readings = _readings(octets, charset)
            if any(map(_FORBIDDEN.search, readings)):
                return "contains a line break or NUL in an encoded word: remove it"
            texts += [reading for reading in readings if "=?" in reading]
    return None


def header_text(value: object, field: str) -> str:
    """The value, if it is text that may stand in a header."""
    text = value if type(value) is str else plain_text(value, field)
    if "=?" not in text and not _FORBIDDEN.search(text):  # nearly always
        return text
    problem = header_problem(text)
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


def body_text(value: object, field: str) -> str:
    """The value, if it is text that UTF-8 can encode."""
    text = plain_text(value, field)
    if not text.isascii() and _SURROGATE.search(text):
        raise InvalidEmail(field, f"contains {_LONE_SURROGATE}")
    return text


def is_text(value: Any) -> bool:
    """Whether it is a ``str``, a subclass of it, or an object that behaves like one.

    The last may be a lazy translation (Django's ``gettext_lazy``): not a ``str``, but it has the
    methods of one, and they work.
    """
    if isinstance(value, str):
        return True
    try:
        return isinstance(value.encode(), bytes)
    except Exception:  # noqa: BLE001  # an object of the caller may raise anything
        return False


def _encoded_words(text: str) -> Iterator[tuple[str, Callable[[str], bytes], str]]:
    """Whatever a lenient reader may take for an encoded word: charset, decoder, source.

    Such a reader may let a "Q" word end anywhere, and a "B" word at any question mark.
    """
    q_text = None  # from the first "Q" word to the end
    charsets = set()
    for match in _ENCODED_WORD.finditer(text):
        charset, start = match[1].partition("*")[0][:40].lower(), match.end(2) + 1
        word = _until(text, start, "?=")
        if match[2] in "qQ":
            q_text = text[start:] if q_text is None else q_text
            charsets.add(charset)
            yield charset, _decode_q, word
        else:
            yield charset, _decode_b, word
            yield charset, _decode_b, _until(word, 0, "?")
    # A reader that finds no end may decode all that follows as one "Q" word.
    rest = _BEGINNING.sub("", q_text or "")
    yield from ((charset, _decode_q, rest) for charset in sorted(charsets))


def _until(text: str, start: int, end: str) -> str:
    position = text.find(end, start)
    return text[start:] if position < 0 else text[start:position]


def _readings(octets: bytes, charset: str) -> list[str]:
    """What these octets may say: by their charset, and by the ASCII among them."""
    readings = [octets.decode("ascii", "ignore")]
    with suppress(LookupError, ValueError):  # a charset that Python does not know or cannot apply
        if codecs.lookup(charset).name not in _SLOW:  # what they read is no line break
            readings.append(octets.decode(charset, "replace"))
    return readings


def _decode_q(source: str) -> bytes:
    """As a lenient reader decodes a "Q" word: what is not valid stands for itself."""
    octets = source.replace("_", " ").encode("ascii", "ignore")
    return _HEX.sub(lambda match: bytes([int(match[1], 16)]), octets)


def _decode_b(source: str) -> bytes:
    """As a lenient reader decodes a "B" word: what is not base64 is skipped."""
    digits = _NOT_BASE64.sub(b"", source.encode("ascii", "ignore"))
    whole = digits[: len(digits) - (len(digits) % 4 == 1)]  # a single last digit is no octet
    return binascii.a2b_base64(whole + b"=" * (-len(whole) % 4))


def phrase(name: str) -> str:
    """A display name in its canonical form: bare where the grammar allows it, else quoted."""
    if _ATOMS.fullmatch(name) and "=?" not in name:
        return name
    return f'"{escape(name)}"'


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def is_plain(value: str) -> bool:
    """Whether a short value can stand in a quoted string as it is."""
    return len(value) <= _SHORT and bool(_VISIBLE.fullmatch(value)) and "=?" not in value


def encode_unstructured(value: str) -> str:
    """A subject or the like as it stands in a header; it reads back as the very same text."""
    if not value or (
        is_visible(value) and "=?" not in value and max(map(len, pieces(value))) <= LINE
    ):
        return value
    return encode_words(value)


def is_visible(value: str) -> bool:
    """Whether it is printable ASCII, with blanks only inside."""
    return bool(_VISIBLE.fullmatch(value))


def pieces(value: str) -> list[str]:
    """The parts between which a value can be folded, each with the blanks before it."""
    return _PIECE.findall(f" {value}") if value else []


def encode_words(value: str) -> str:
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


def decode(octets: bytes, charset: str) -> str:
    """The text of these octets. Raises ``LookupError`` or ``ValueError`` if it cannot be decoded.

    Python has codecs that are no charsets: what they make of a text is not what others read in it,
    and some take the square of its length.
    """
    if len(charset) > _CHARSET_LENGTH or codecs.lookup(charset).name in _NO_CHARSETS:
        raise LookupError
    return octets.decode(charset)


def try_decode_words(text: str) -> str:
    """The text with its encoded words decoded; unchanged if one cannot be decoded."""
    try:
        return decode_words(text)
    except (LookupError, ValueError):
        return text


def decode_words(text: str) -> str:
    """The text with its encoded words decoded (RFC 2047).

    Blanks between two encoded words are dropped, and a character may begin in one word and end in
    the next. Raises ``LookupError`` or ``ValueError`` if one cannot be decoded.
    """
    # Words of one charset that follow each other are decoded together: a program that counts octets
    # may have split a character between two of them.
    texts: list[str] = []
    charset, octets, end = "", [b""], 0
    for word in _WORD_PROPER.finditer(text):
        between, end = text[end : word.start()], word.end()
        language_free = word[1].partition("*")[0].lower()
        if between.strip(" \t") or language_free != charset:
            texts.append(decode(b"".join(octets), charset or "ascii"))
            octets = []
        if between.strip(" \t") or not charset:  # blanks between two words are not part of the text
            texts.append(between)
        charset = language_free
        octets.append(_word_octets(word[2], word[3]))
    texts += [decode(b"".join(octets), charset or "ascii"), text[end:]]
    return "".join(texts)


def _word_octets(kind: str, source: str) -> bytes:
    if kind in "qQ":
        return _decode_q(source)
    if not _BASE64.fullmatch(source):
        raise ValueError
    return _decode_b(source)

"""What may be kept of a vendor's words: a short line without anything private in it.

Decides: what is private. Addresses; names, local parts, the subject, values of headers and
metadata, tags and file names; of the bodies (and the other texts, in files too) every line of one
or two words and any three words in a row, however they are spaced, capitalised or wrapped in HTML;
and the secrets of the vendor's configuration. The same in base64, quoted-printable or
percent-encoded.

Promises: the work is linear in the e-mail, and of what the vendor said only the beginning is looked
at. An e-mail with more than a MiB of text is not compared with anything: then nothing is kept.
"""

from __future__ import annotations

import html
import re
import unicodedata
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from quopri import decodestring
from urllib.parse import unquote_plus

from mailqueue.message import Alternative, Attachment, Email
from mailqueue.message.parameters import charset

LENGTH = 200  # characters that are kept
LOOKED_AT = 4096
TOO_LONG = "not kept: the e-mail is too long to be compared with it"

_COMPARED, _CERTAIN = 1000, 900  # the rest may be the beginning of something private
_MOST_TEXT = 1024 * 1024
_SHORT_WORD = 3  # such a one is part of many others
_TOKEN = re.compile(r"<?[^\s<>\"'(),:;=]+>?")
_ADDRESS = re.compile(r"[\w.+-]{2,64}@[\w-]{1,63}\.\w{2}")
_TAG = re.compile(r"<[^<>]*>")
_PACKED = re.compile(r"([A-Za-z0-9+/_-]{8,})={0,2}")
_ESCAPE = re.compile(r"[=%][0-9A-Fa-f]{2}")
_URL_SAFE = str.maketrans("-_", "+/")
_ONE_LETTER = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # is a word, without blanks around it
_LETTER = re.compile(rf"[{_ONE_LETTER}]")
_WORD = re.compile(rf"[{_ONE_LETTER}]|[^\s{_ONE_LETTER}]+")


def discreet(detail: str, email: Email, secrets: tuple[str, ...] = ()) -> str:
    """What may be kept of it; the answer never suffers from that."""
    try:
        return _discreet(detail, email, secrets) if detail else ""
    except Exception:  # noqa: BLE001  # a bug of ours must not make an unknown of a yes
        return ""


def _discreet(detail: str, email: Email, secrets: tuple[str, ...]) -> str:
    if sum(map(len, _texts(email))) > _MOST_TEXT:
        return TOO_LONG
    said = detail[:LOOKED_AT].replace("=\r\n", "").replace("=\n", "")
    said = _one_line(_normal(html.unescape(said)))
    part = said[:_COMPARED]
    hidden = _hidden(part, email, secrets)
    certain = len(said) if len(said) <= _COMPARED else _CERTAIN
    shown = (
        char if not hidden[at] else "" if at and hidden[at - 1] else "*"
        for at, char in enumerate(part[:certain])
    )
    return _one_line("".join(shown))[:LENGTH]


@dataclass(frozen=True, slots=True)
class _View:
    """A reading of what was said: ``text`` in lower case, from ``start`` to ``end`` of it.

    ``decoded``: it is what was packed there, so whatever is private in it hides the whole.
    """

    start: int
    end: int
    text: str
    decoded: bool = True

    def place(self, start: int, end: int) -> slice:
        """Where this stretch of the text was said."""
        return slice(self.start, self.end) if self.decoded else slice(start, end)


def _hidden(said: str, email: Email, secrets: Iterable[str]) -> bytearray:
    """For each character, whether it is (a part of something) private."""
    hidden = bytearray(len(said))
    views = [_View(0, len(said), _lower(said), decoded=False), *_decoded(said)]
    tokens = (token for token in _TOKEN.finditer(said) if "@" in token[0].strip("<>")[1:-1])
    places = [slice(*token.span()) for token in tokens]
    places += _named(views, [*_words(email), *secrets])
    places += _quoted(views, email)
    for place in places:
        hidden[place] = b"\1" * (place.stop - place.start)
    return hidden


def _decoded(said: str) -> Iterator[_View]:
    """What is packed in it as base64 (which may begin anywhere), or escaped by ``=XX``, ``%XX``."""
    for packed in _PACKED.finditer(said):
        octets = packed[1].translate(_URL_SAFE)
        for begin in range(4):
            chunk = octets[begin : len(octets) - ((len(octets) - begin) % 4 == 1)]
            text = b64decode(chunk + "=" * (-len(chunk) % 4)).decode("utf-8", "replace")
            if _is_text(text):
                yield _View(*packed.span(), _lower(_normal(text)))
    for escaped in re.finditer(r"\S+", said):
        if not _ESCAPE.search(escaped[0]):
            continue
        quoted = decodestring(escaped[0].encode()).decode("utf-8", "replace")
        for text in (quoted, unquote_plus(escaped[0])):
            yield _View(*escaped.span(), _lower(_normal(text)))


def _is_text(decoded: str) -> bool:
    """Rather than the noise that any word makes when it is read as base64."""
    return sum(c.isprintable() and c != "\ufffd" for c in decoded) > 0.6 * len(decoded)


def _named(views: Sequence[_View], given: Iterable[str]) -> Iterator[slice]:
    """Where they have any of these words; a short one only if it stands alone."""
    everything = "\n".join(view.text for view in views)
    words = {_lower(_normal(word)).strip() for word in given}
    found = [word for word in words if len(word) > 1 and word in everything]
    for view in views:
        if view.decoded and _ADDRESS.search(view.text):
            yield view.place(0, 0)
        for word in found:
            for at in _places(word, view.text):
                yield view.place(at, at + len(word))


def _places(word: str, text: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        around = text[max(0, at - 1) : at] + text[end : end + 1]
        if len(word) > _SHORT_WORD or not any(map(str.isalnum, around)):
            yield at
        at = text.find(word, end)


def _quoted(views: Sequence[_View], email: Email) -> Iterator[slice]:
    """Where they have three words in a row of the e-mail's texts, or a line of one or two."""
    runs, lines = defaultdict[str, list[slice]](list), defaultdict[str, list[slice]](list)
    for view in views:
        spaced = view.text.translate(_blanks())
        spans = [word.span() for word in _WORD.finditer(spaced)]
        for number, found in ((1, lines), (2, lines), (3, runs)):
            for (start, _), (_, end) in zip(spans, spans[number - 1 :], strict=False):
                found[_key(spaced[start:end], run=number == 3)].append(view.place(start, end))
    for text in _readings(email):
        spaced = _lower(_normal(text)).translate(_blanks())
        told = {" ".join(line.split()) for line in spaced.splitlines() if len(line) <= _COMPARED}
        flat = f" {' '.join(spaced.split())} "
        for key in lines.keys() & told:
            yield from lines[key]
        for key in [key for key in runs if key in flat]:
            yield from runs.pop(key)


def _key(words: str, *, run: bool) -> str:
    """Words with one blank between them; a run of them has one at each end of a whole word."""
    key = " ".join(words.split())
    if not run:
        return key
    before, after = ("" if _LETTER.match(key[at]) else " " for at in (0, -1))
    return before + key + after


def _texts(email: Email) -> tuple[str, ...]:
    """What is written by people, and may be quoted in part."""
    values = (*email.headers.values(), *email.metadata.values())
    return (email.text or "", email.html or "", email.subject, *values, *_forms(email))


def _forms(email: Email) -> Iterator[str]:
    """The other forms of the text, and files that are texts: parts of the body may become one."""
    parts: tuple[Alternative | Attachment, ...] = (*email.alternatives, *email.attachments)
    for part in parts:
        if part.content_type.lower().startswith("text/"):
            told = charset(part.content_type).strip("'")
            try:
                yield part.content.decode(told or "utf-8", "replace")
            except (LookupError, ValueError):
                yield part.content.decode("latin-1")


def _readings(email: Email) -> Iterator[str]:
    """The texts, and those with HTML in them as their readers see them."""
    for text in _texts(email):
        yield html.unescape(text)
        if "<" in text:
            yield html.unescape(_TAG.sub("\n", text))


def _words(email: Email) -> Iterator[str]:
    """What is private wherever it stands."""
    for person in email.people:
        yield from (person.name, person.address, person.address.rpartition("@")[0])
    yield from (email.subject, *email.headers.values())
    yield from (*email.metadata.values(), *email.tags)
    yield from (file.filename for file in email.attachments)


def _normal(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _lower(text: str) -> str:
    """In lower case, character by character."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(small if len(small := char.lower()) == 1 else char for char in text)


def _one_line(text: str) -> str:
    """Without line ends, and without what cannot be seen."""
    return "".join(filter(str.isprintable, " ".join(text.split())))


@lru_cache(maxsize=1)
def _blanks() -> dict[int, str]:
    """Makes a blank of whatever is no part of a word, up to the ideographs and beyond them."""
    codes = (*range(0x09, 0x3040), *range(0xFE00, 0x10000))
    return {code: " " for code in codes if unicodedata.category(chr(code))[0] in "PSZ"}

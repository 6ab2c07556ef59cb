"""What may be kept of a vendor's words: a short line without anything private in it.

Decides: what is private.

* Addresses, names, local parts, the subject, values of headers and metadata, tags, file names.
* Of the bodies, and of other texts in files too: every line of one or two words, and any three
  words in a row, however they are spaced, capitalised or wrapped in HTML.
* The secrets of the vendor's configuration.
* The same in base64, quoted-printable or percent-encoded.

Promises: the work is linear in the e-mail, and only the first 4 KiB of the vendor's words are
looked at. An e-mail with more than a MiB of text is not compared; then nothing is kept.
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
LOOKED_AT = 4096  # characters
TOO_LONG = "not kept: the e-mail is too long to be compared with it"

# Characters that are compared. The last of them may be the beginning of something private, so a
# longer answer is shown only up to the smaller number.
_COMPARED, _SHOWN = 1000, 900
_MAX_TEXT = 1024 * 1024
_SHORT_WORD = 3  # characters; such a word is part of many others
_TOKEN = re.compile(r"<?[^\s<>\"'(),:;=]+>?")
_ADDRESS = re.compile(r"[\w.+-]{2,64}@[\w-]{1,63}\.\w{2}")
_TAG = re.compile(r"<[^<>]*>")
_PACKED = re.compile(r"([A-Za-z0-9+/_-]{8,})={0,2}")
_ESCAPE = re.compile(r"[=%][0-9A-Fa-f]{2}")
_URL_SAFE = str.maketrans("-_", "+/")
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # each is a word, without blanks around it
_IDEOGRAPH = re.compile(rf"[{_IDEOGRAPHS}]")
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")


def redacted(detail: str, email: Email, secrets: tuple[str, ...] = ()) -> str:
    """The detail as one short line, with ``*`` for what is private. Never raises."""
    try:
        return _redacted(detail, email, secrets) if detail else ""
    except Exception:  # noqa: BLE001  # a bug of ours must not make an unknown of a yes
        return ""


def _redacted(detail: str, email: Email, secrets: tuple[str, ...]) -> str:
    if sum(map(len, _texts(email))) > _MAX_TEXT:
        return TOO_LONG
    unfolded = detail[:LOOKED_AT].replace("=\r\n", "").replace("=\n", "")
    line = _one_line(_normalize(html.unescape(unfolded)))
    part = line[:_COMPARED]
    hidden = _private_mask(part, email, secrets)
    end = len(line) if len(line) <= _COMPARED else _SHOWN
    # A private stretch is one asterisk, which does not tell how long it was.
    shown = (
        char if not hidden[at] else "" if at and hidden[at - 1] else "*"
        for at, char in enumerate(part[:end])
    )
    return _one_line("".join(shown))[:LENGTH]


@dataclass(frozen=True, slots=True)
class _View:
    """One reading of the line between ``start`` and ``end``: ``text``, in lower case.

    ``decoded``: the text was packed there, so anything private in it hides all of the stretch.
    """

    start: int
    end: int
    text: str
    decoded: bool = True

    def place(self, start: int, end: int) -> slice:
        """The place in the line of this stretch of the text."""
        return slice(self.start, self.end) if self.decoded else slice(start, end)


def _private_mask(line: str, email: Email, secrets: Iterable[str]) -> bytearray:
    """For each character, whether it is (a part of something) private."""
    hidden = bytearray(len(line))
    views = [_View(0, len(line), _lower_case(line), decoded=False), *_decoded_views(line)]
    # All that looks like an address is hidden, also what is not in the e-mail.
    tokens = (token for token in _TOKEN.finditer(line) if "@" in token[0].strip("<>")[1:-1])
    places = [slice(*token.span()) for token in tokens]
    places += _places_of_words(views, [*_private_words(email), *secrets])
    places += _quoted_places(views, email)
    for place in places:
        hidden[place] = b"\1" * (place.stop - place.start)
    return hidden


def _decoded_views(line: str) -> Iterator[_View]:
    """What the line has in base64 (from any character on), or escaped: ``=XX``, ``%XX``."""
    for packed in _PACKED.finditer(line):
        octets = packed[1].translate(_URL_SAFE)
        # Four characters are three octets. The vendor may have cut the text anywhere, so it is read
        # from each of the first four; a single character at the end is no octet.
        for begin in range(4):
            chunk = octets[begin : len(octets) - ((len(octets) - begin) % 4 == 1)]
            text = b64decode(chunk + "=" * (-len(chunk) % 4)).decode("utf-8", "replace")
            if _is_text(text):
                yield _View(*packed.span(), _lower_case(_normalize(text)))
    for escaped in re.finditer(r"\S+", line):
        if not _ESCAPE.search(escaped[0]):
            continue
        quoted = decodestring(escaped[0].encode()).decode("utf-8", "replace")
        for text in (quoted, unquote_plus(escaped[0])):
            yield _View(*escaped.span(), _lower_case(_normalize(text)))


def _is_text(decoded: str) -> bool:
    """Rather than the noise that any word makes when it is read as base64."""
    return sum(c.isprintable() and c != "\ufffd" for c in decoded) > 0.6 * len(decoded)


def _places_of_words(views: Sequence[_View], private: Iterable[str]) -> Iterator[slice]:
    """The places of private words; a short word counts only if it stands alone."""
    everything = "\n".join(view.text for view in views)
    words = {_lower_case(_normalize(word)).strip() for word in private}
    # Most words of the e-mail are not in the answer at all: one search tells, for all views.
    present = [word for word in words if len(word) > 1 and word in everything]
    for view in views:
        if view.decoded and _ADDRESS.search(view.text):
            yield view.place(0, 0)
        for word in present:
            for at in _places_of(word, view.text):
                yield view.place(at, at + len(word))


def _places_of(word: str, text: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        around = text[max(0, at - 1) : at] + text[end : end + 1]
        if len(word) > _SHORT_WORD or not any(map(str.isalnum, around)):
            yield at
        at = text.find(word, end)


def _quoted_places(views: Sequence[_View], email: Email) -> Iterator[slice]:
    """The places of three words in a row of the e-mail's texts, or of a line of one or two."""
    # The line's words are indexed first (a line is short), then each text of the e-mail is gone
    # through once: the work is linear in the e-mail.
    runs, lines = defaultdict[str, list[slice]](list), defaultdict[str, list[slice]](list)
    for view in views:
        spaced = view.text.translate(_blanks())
        spans = [word.span() for word in _WORD.finditer(spaced)]
        for number, places in ((1, lines), (2, lines), (3, runs)):
            for (start, _), (_, end) in zip(spans, spans[number - 1 :], strict=False):
                places[_key(spaced[start:end], run=number == 3)].append(view.place(start, end))
    for text in _readings(email):
        spaced = _lower_case(_normalize(text)).translate(_blanks())
        short = {" ".join(line.split()) for line in spaced.splitlines() if len(line) <= _COMPARED}
        flat = f" {' '.join(spaced.split())} "
        for key in lines.keys() & short:
            yield from lines[key]
        for key in [key for key in runs if key in flat]:
            yield from runs.pop(key)


def _key(words: str, *, run: bool) -> str:
    """The words with one blank between them; in a run, also one at each end of a whole word."""
    key = " ".join(words.split())
    if not run:
        return key
    # A run is looked for inside a whole text, where "art of" must not be found in "part of".
    before, after = ("" if _IDEOGRAPH.match(key[at]) else " " for at in (0, -1))
    return before + key + after


def _texts(email: Email) -> tuple[str, ...]:
    """The texts that people wrote, which an answer may quote in part."""
    values = (*email.headers.values(), *email.metadata.values())
    return (email.text or "", email.html or "", email.subject, *values, *_text_forms(email))


def _text_forms(email: Email) -> Iterator[str]:
    """The other forms of the text, and attached texts."""
    parts: tuple[Alternative | Attachment, ...] = (*email.alternatives, *email.attachments)
    for part in parts:
        if part.content_type.lower().startswith("text/"):
            name = charset(part.content_type).strip("'")
            try:
                yield part.content.decode(name or "utf-8", "replace")
            except (LookupError, ValueError):
                yield part.content.decode("latin-1")


def _readings(email: Email) -> Iterator[str]:
    """The texts; those with HTML also as their readers see them."""
    for text in _texts(email):
        yield html.unescape(text)
        if "<" in text:
            yield html.unescape(_TAG.sub("\n", text))


def _private_words(email: Email) -> Iterator[str]:
    """Words that are private wherever they stand."""
    for person in email.people:
        yield from (person.name, person.address, person.address.rpartition("@")[0])
    yield from (email.subject, *email.headers.values())
    yield from (*email.metadata.values(), *email.tags)
    yield from (file.filename for file in email.attachments)


def _normalize(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _lower_case(text: str) -> str:
    """In lower case and of the same length, so that places stay the same."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(small if len(small := char.lower()) == 1 else char for char in text)


def _one_line(text: str) -> str:
    """The text without line ends and unprintable characters."""
    return "".join(filter(str.isprintable, " ".join(text.split())))


@lru_cache(maxsize=1)
def _blanks() -> dict[int, str]:
    """A table that makes blanks of punctuation and spaces, below and above the ideographs."""
    codes = (*range(0x09, 0x3040), *range(0xFE00, 0x10000))
    return {code: " " for code in codes if unicodedata.category(chr(code))[0] in "PSZ"}

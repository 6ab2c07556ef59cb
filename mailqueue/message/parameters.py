"""A header field with parameters (Content-Type, Content-Disposition), read from its text.

Decides: the name and value of each parameter. The form of RFC 2231 (other character sets, values in
sections) wins over a plain form that stands beside it for older readers. Encoded words are decoded:
they are not allowed there, and many programs write them.

Promises: the time is in proportion to the length. What cannot be decoded is ``InvalidEmail``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from mailqueue.errors import InvalidEmail
from mailqueue.message.headers import decode, try_decode_words

_RUN = re.compile(r'"(?:[^"\\]|\\.)*"?|\\|[^";\\]+|;', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NAME = re.compile(r"([^*]+)(?:\*(\d{1,4}))?(\*)?")


@dataclass(frozen=True, slots=True)
class Parameters:
    """The field's ``value``, and its parameters by their names in lower case."""

    value: str
    by_name: Mapping[str, str]


def parameters(text: str) -> Parameters:
    """Read a field's text. Raises ``InvalidEmail``."""
    value, *pairs = _split(text)
    plain: dict[str, str] = {}
    sections: dict[str, dict[int, tuple[str, bool]]] = {}
    for pair in pairs:
        name, _, raw = (word.strip() for word in pair.partition("="))
        match = _NAME.fullmatch(name.lower())
        if match is None:
            continue
        # RFC 2231: ``name*0=`` and ``name*1=`` are two sections of a value. A star at the end says
        # that the section is percent-encoded; ``name*=`` is such a section alone.
        bare, number, star = match.groups()
        content = _ESCAPE.sub(r"\1", raw.strip('"')) if raw.startswith('"') else raw
        if number is None and star is None:
            plain.setdefault(bare, try_decode_words(content))
        else:
            section = sections.setdefault(bare, {})
            section.setdefault(int(number or 0), (content, star is not None))
    return Parameters(value.strip(), plain | {n: _join(n, s) for n, s in sections.items()})


def charset(content_type: str) -> str:
    """The charset that a content type names, in lower case; empty if it names none."""
    try:
        return parameters(content_type).by_name.get("charset", "").lower()
    except InvalidEmail:
        return "unreadable"


def _split(text: str) -> Iterator[str]:
    """The parts between semicolons outside of quotes."""
    runs: list[str] = []
    for run in _RUN.findall(text):
        if run == ";":
            yield "".join(runs)
            runs = []
        else:
            runs.append(run)
    yield "".join(runs)


def _join(name: str, sections: Mapping[int, tuple[str, bool]]) -> str:
    """A value from its sections; the first encoded one names the charset (RFC 2231)."""
    charset, octets = "", b""
    for number in sorted(sections):
        content, is_encoded = sections[number]
        if is_encoded and not charset:  # charset'language'text
            charset, _, content = content.partition("'")
            content = content.partition("'")[2]
            charset = charset or "us-ascii"
        octets += unquote_to_bytes(content) if is_encoded else content.encode()
    try:
        return decode(octets, charset or "utf-8")
    except (LookupError, UnicodeError):
        raise InvalidEmail(
            "attachments", f"has a {name} that cannot be decoded by its charset: use UTF-8"
        ) from None

"""A header field with parameters (Content-Type, Content-Disposition), read from its text.

Decides: what each parameter is called and holds: RFC 2231 (other character sets, values in several
sections) comes before the plain form that stands beside it for older readers, and encoded words
are read although they have no place there, since many programs write them.

Promises: the time is in proportion to the length. What cannot be decoded is ``InvalidEmail``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from mailqueue.errors import InvalidEmail
from mailqueue.message.headers import decoded

_RUN = re.compile(r'"(?:[^"\\]|\\.)*"?|\\|[^";\\]+|;', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NAME = re.compile(r"([^*]+)(?:\*(\d{1,4}))?(\*)?")


@dataclass(frozen=True, slots=True)
class Parameters:
    """The field's own ``value``, and what it says beside it, by names in lower case."""

    value: str
    named: Mapping[str, str]


def parameters(text: str) -> Parameters:
    """Read a field's text. Raises ``InvalidEmail``."""
    value, *pairs = _split(text)
    plain: dict[str, str] = {}
    sections: dict[str, dict[int, tuple[str, bool]]] = {}
    for pair in pairs:
        name, _, given = (word.strip() for word in pair.partition("="))
        found = _NAME.fullmatch(name.lower())
        if found is None:
            continue
        content = _ESCAPE.sub(r"\1", given.strip('"')) if given.startswith('"') else given
        if found[2] is None and found[3] is None:
            plain.setdefault(found[1], decoded(content))
        else:
            section = sections.setdefault(found[1], {})
            section.setdefault(int(found[2] or 0), (content, found[3] is not None))
    return Parameters(value.strip(), plain | {n: _joined(n, s) for n, s in sections.items()})


def charset(content_type: str) -> str:
    """In which charset a text of this type says that it is, in lower case; ``""``: not at all."""
    try:
        return parameters(content_type).named.get("charset", "").lower()
    except InvalidEmail:
        return "unreadable"


def _split(text: str) -> Iterator[str]:
    """What stands between semicolons that are in no quotes."""
    runs: list[str] = []
    for run in _RUN.findall(text):
        if run == ";":
            yield "".join(runs)
            runs = []
        else:
            runs.append(run)
    yield "".join(runs)


def _joined(name: str, sections: Mapping[int, tuple[str, bool]]) -> str:
    """A value from its sections; the first that is encoded names the charset (RFC 2231)."""
    charset, octets = "", b""
    for number in sorted(sections):
        content, encoded = sections[number]
        if encoded and not charset:
            charset, _, content = content.partition("'")
            content = content.partition("'")[2]
            charset = charset or "us-ascii"
        octets += unquote_to_bytes(content) if encoded else content.encode()
    try:
        return octets.decode(charset or "utf-8")
    except (LookupError, UnicodeError):
        raise InvalidEmail("attachments", f"a {name} cannot be decoded by its charset") from None

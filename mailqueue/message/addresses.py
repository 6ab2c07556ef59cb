"""A mailbox: the address, and the name that is shown with it.

Decides: what a valid address is (``Address.parse``), and how it stands in a header. Valid is a
dot-atom or a quoted string, at a domain of labels of letters, digits and hyphens. Address literals
(``user@[10.0.0.1]``) and comments are not, and an entry is one address.

Promises: what is parsed and formatted again is equal. A domain outside ASCII is kept as it was
given; ``Address.ascii`` is what goes out. A quoted mailbox or one outside ASCII is valid: each
vendor says whether it takes it. Parsing takes time and memory in proportion to the length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mailqueue.errors import InvalidEmail
from mailqueue.message.headers import (
    DOTLESS,
    SPECIAL,
    encode_words,
    escape,
    header_text,
    is_plain,
    phrase,
    try_decode_words,
)

_SPACES = re.compile("[ \t]+")
_NAME = re.compile(r'(?:[^,;<>"\\]|"[^"\\]*(?:\\.[^"\\]*)*")*')
_QUOTES = re.compile(r'"[^"\\]*(?:\\.?[^"\\]*)*"?|[^"]+')  # matches anything, to the end
_COMMA = re.compile("[,;]")
_ESCAPED = re.compile(r"\\(.)")
_LOCAL = re.compile(rf"[^{SPECIAL}]+(\.[^{SPECIAL}]+)*")
_DOTTED = re.compile(rf"[^{SPECIAL}][^{DOTLESS}]*")
_QUOTED_LOCAL = re.compile(r'"(?:[^"\\<>]|\\[^<>])+"')
_LOCAL_OCTETS = 64
_LOCAL_LENGTH = 130  # with quotes and backslashes; without those that are not needed at most 64
_DOMAIN_LENGTH = 254
_TOO_LONG = "is too long: 64 octets before the @ and 254 in all are allowed"
_MAX_TEXT = 5_000  # characters of a name and its address
SEVERAL = "contains several addresses: pass a list"
_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_USUAL = re.compile(rf"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@{_DOMAIN.pattern}")


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """A mailbox: the ``name`` to show, which may be empty, and the ``address``.

    ``Address.parse`` checks what it is given; the constructor checks nothing. ``str()`` is the form
    of RFC 5322, not yet encoded: ``Ann <ann@example.org>``. ``repr()`` shows neither.
    """

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
        """The same text for every spelling of one mailbox's domain; the local part is kept."""
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
        """One valid address from text (``Ann <ann@example.org>``), ``Address`` or (name, address).

        Raises ``InvalidEmail``, which names ``field`` and quotes nothing.
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
    def from_canonical(cls, text: str) -> Address:
        """From the canonical form that ``str()`` gave, unchecked."""
        if not text.endswith(">"):
            return cls("", text)
        name, _, address = text[:-1].rpartition(" <")
        return cls(_unquote(name) if name.startswith('"') else name, address)


def _pair(value: tuple[object, ...], field: str) -> tuple[str, str]:
    if len(value) != 2:  # a pair
        raise InvalidEmail(field, "must be an address, or a pair of name and address")
    name, address = ("" if part is None else header_text(part, field) for part in value)
    if len(name) > _MAX_TEXT:
        raise InvalidEmail(field, f"has a name longer than {_MAX_TEXT} characters: shorten it")
    return name, address


def _split(text: str, field: str) -> tuple[str, str]:
    """Display name and address. What could be two addresses is refused."""
    if len(text) > _MAX_TEXT:
        problem = f"is longer than {_MAX_TEXT} characters: give one address, or a list of them"
        raise InvalidEmail(field, problem)
    if ("," in text or ";" in text) and sum("@" in part for part in split_list(text)) > 1:
        raise InvalidEmail(field, SEVERAL)
    if not text.endswith(">"):
        return "", text
    name, _, address = text[:-1].rpartition("<")
    if not _NAME.fullmatch(name):
        problem = "must be one address: put a display name with punctuation in double quotes"
        raise InvalidEmail(field, problem)
    if '"' in name or "=?" in name:
        runs = _QUOTES.findall(name)
        texts = (_unquote(run) if run[0] == '"' else try_decode_words(run) for run in runs)
        name = header_text("".join(texts), field)
    return name, address


def split_list(text: str) -> list[str]:
    """The entries between commas and semicolons outside of quotes; empty ones are left out."""
    entries: list[list[str]] = [[]]
    for run in _QUOTES.findall(text):
        first, *others = [run] if run[0] == '"' else _COMMA.split(run)
        entries[-1].append(first)
        entries += ([other] for other in others)
    texts = ("".join(runs).strip() for runs in entries)
    return [text for text in texts if text]


def decode_quoted(text: str) -> str:
    """The text with the encoded words in its quoted strings decoded.

    RFC 2047 forbids encoded words there, but many programs write them so.
    """
    if '"' not in text or "=?" not in text:
        return text
    return "".join(
        f'"{escape(try_decode_words(_unquote(run)))}"' if run[0] == '"' else run
        for run in _QUOTES.findall(text)
    )


def _unquote(name: str) -> str:
    return _ESCAPED.sub(r"\1", name[1:-1])


def mailbox(name: str, address: str) -> str:
    """One mailbox as it stands in a header."""
    if not name:
        return address
    return f"{phrase(name) if is_plain(name) else encode_words(name)} <{address}>"


def mailboxes(people: Iterable[Address]) -> str:
    """Mailboxes as they stand in a header."""
    return ", ".join(mailbox(person.name, person.ascii) for person in people)


def _addr_spec(address: str, field: str) -> str:
    """The address in its one normal form: with quotes before the @ only where they are needed."""
    if len(address) <= _LOCAL_OCTETS and _USUAL.fullmatch(address):
        return address
    local, _, domain = address.rpartition("@")
    local = _local_part(local, field)
    if len(domain) > _DOMAIN_LENGTH:
        raise InvalidEmail(field, _TOO_LONG)
    try:
        ascii_domain = domain if domain.isascii() else _idna(domain)
    except UnicodeError:
        problem = "has an invalid domain: IDNA 2008 does not allow its characters"
        raise InvalidEmail(field, problem) from None
    if not _DOMAIN.fullmatch(ascii_domain):
        raise InvalidEmail(field, "has an invalid domain: give one such as example.org")
    octets = len(local.encode())
    if octets > _LOCAL_OCTETS or octets + 1 + len(ascii_domain) > 254:
        raise InvalidEmail(field, _TOO_LONG)
    return f"{local}@{domain}"


def _local_part(local: str, field: str) -> str:
    """The part before the @. Without quotes, dots in a row or at its end are not valid (RFC 5321),
    but such mailboxes exist (at docomo.ne.jp): they get the quotes that they need.
    """
    if len(local) <= _LOCAL_LENGTH and local.isprintable():
        if _LOCAL.fullmatch(local):
            return local
        is_quoted = _QUOTED_LOCAL.fullmatch(local)
        content = _unquote(local) if is_quoted else local
        if _LOCAL.fullmatch(content):
            return content
        if is_quoted or _DOTTED.fullmatch(content):
            return f'"{escape(content)}"'
    raise InvalidEmail(field, "is not a valid e-mail address: correct it, or leave it out")


def _idna(domain: str) -> str:
    import idna

    return idna.encode(domain, uts46=True).decode()

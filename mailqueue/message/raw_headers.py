"""The header fields of a message of the standard library, read from their text.

Decides: what a field's text is (``source``), which mailboxes it names, what free text it says. The
library's own parser is not used: it drops what it does not understand (the second of two people,
half a domain), puts blanks into long names (cpython 128110), and takes time in the square of the
length.

Assumes: nothing.

Promises: only comments and the names of groups are dropped; what cannot be read as a whole is
``InvalidEmail``. The time is in proportion to the length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mailqueue.errors import InvalidEmail
from mailqueue.message.addresses import decode_quoted
from mailqueue.message.headers import FIELD_NAME, decode_words, encode_words, plain_text

_FOLD = re.compile(r"\r?\n(?=[ \t])")
_COMMENT = "\0"  # stands for a comment: no header contains NUL
_UNDECODABLE = "cannot be decoded: give plain text, or encode it by RFC 2047"
_MARKS = re.compile(r'\\.?|[()"<>,;:]|[^\\()"<>,;:]+', re.DOTALL)


def check(name: str, raw: Any, field: str) -> None:
    """Refuse an invalid name, and a line break that does not fold the line."""
    if not FIELD_NAME.fullmatch(name):
        raise InvalidEmail("headers", "has an invalid header name (RFC 5322)")
    if any(char in _FOLD.sub("", str(raw)) for char in "\r\n\0"):
        raise InvalidEmail(field, "contains a line break or NUL: remove it")


def source(raw: Any, field: str) -> str:
    """The text of a checked field, on one line, with its encoded words as they are.

    ``raw`` comes from ``raw_items()``: text, which may hold octets as surrogates, a ``Header``, or
    a parsed header. An older ``Message`` may hold any object: None and bytes are refused.
    """
    try:
        content = _raw_text(raw)
    except Exception:  # noqa: BLE001  # a Header of the library raises many exceptions
        raise InvalidEmail(field, _UNDECODABLE) from None
    text = plain_text(content, field)
    try:
        return _FOLD.sub("", text).encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        raise InvalidEmail(field, _UNDECODABLE) from None


def _raw_text(raw: Any) -> object:
    from email.header import Header

    if isinstance(raw, Header):
        return raw.encode(maxlinelen=0)
    tree = getattr(raw, "_parse_tree", None)  # a parsed header has its text nowhere else
    if tree is None:
        return raw
    text = "".join(_tokens(tree))
    if "\r" in text or "\n" in text:  # not folding, which is gone: encoded within quotes
        raise ValueError
    return text


def _tokens(tree: Any) -> Iterator[str]:
    """The text of a parsed header; encoded words are encoded again, as they may hold anything."""
    kind = getattr(tree, "token_type", None)
    if kind == "encoded-word":
        yield encode_words(_word_text(tree))
    elif isinstance(tree, list) and kind not in ("bare-quoted-string", "comment"):
        for token in tree:
            yield from _tokens(token)
    elif kind == "comment" and _is_open(tree):
        yield str(tree)[:-1]  # the library closes it, and addresses would be in it
    else:
        yield str(tree)


def _is_open(comment: Any) -> bool:
    from email.errors import InvalidHeaderDefect

    return any(isinstance(defect, InvalidHeaderDefect) for defect in comment.all_defects)


def _word_text(word: Any) -> str:
    """The text of an encoded word, if nothing was lost in decoding it."""
    from email.errors import CharsetError, InvalidBase64CharactersDefect, UndecodableBytesDefect

    lossy = (CharsetError, InvalidBase64CharactersDefect, UndecodableBytesDefect)
    if any(isinstance(defect, lossy) for defect in word.all_defects):
        raise ValueError
    return str(word)


def free_text(text: str, field: str) -> str:
    """What a field without a grammar says."""
    try:
        return decode_words(text)
    except (LookupError, ValueError):
        raise InvalidEmail(field, _UNDECODABLE) from None


def mailboxes(text: str, field: str) -> list[str]:
    """The mailboxes that a field names, one by one; those of a group, without its name."""
    free_text(text, field)
    entries: list[list[str]] = [[]]
    # One pass over the marks, with the state of RFC 5322's grammar: the depth of comments, and
    # whether we are in quotes, in angle brackets, behind an @ of this mailbox, in a group.
    comments, in_quotes, in_angle, has_at, in_group = 0, False, False, False, False
    for mark in _MARKS.findall(text):
        if not in_quotes and (comments or mark == "("):
            comments += {"(": 1, ")": -1}.get(mark, 0)
            entries[-1].append(_COMMENT if not comments else "")
            continue
        in_quotes ^= mark == '"'
        # A colon names a group only where a mailbox may begin: once, and before any @.
        is_text = mark not in {",", ";", ":"} or (mark == ":" and (has_at or in_group))
        if in_quotes or in_angle or is_text:
            in_angle = not in_quotes and (mark == "<" or (in_angle and mark != ">"))
            has_at = has_at or "@" in mark
            entries[-1].append(mark)
        elif mark == ":":  # what came before was the group's name
            in_group, entries[-1] = True, []
        else:  # a comma ends a mailbox, a semicolon the group as well
            in_group, has_at = in_group and mark == ",", False
            entries.append([])
    if comments or in_quotes or in_group:
        raise InvalidEmail(field, "has quotes, a comment or a group without an end: close it")
    mailboxes = [mailbox for marks in entries if (mailbox := _mailbox(marks))]
    if any(map(_lacks_comma, mailboxes)):
        problem = "must be one address between commas: quote a name with an @ in it"
        raise InvalidEmail(field, problem)
    return [decode_quoted(mailbox) for mailbox in mailboxes]


def _mailbox(marks: list[str]) -> str:
    """The text of one mailbox; a comment between two words becomes a blank."""
    marks = [mark for mark in marks if mark]
    for n, mark in enumerate(marks):
        if mark == _COMMENT:
            before, after = (marks[n - 1] if n else " ", marks[n + 1] if marks[n + 1 :] else " ")
            marks[n] = "" if before[-1:] in " \t@<>" or after[0] in " \t@<>" else " "
    return "".join(marks).strip()


def _lacks_comma(mailbox: str) -> bool:
    """Whether the name contains an address: a comma is missing."""
    name, _, _ = mailbox.rpartition("<")
    words = name.split()
    return len(words) > 1 and '"' not in name and any("@" in word[1:-1] for word in words)

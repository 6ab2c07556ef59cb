"""What is made to be slow is not: work grows with the length of what is handed in, in every field.

Work is counted, not timed: the calls that Python makes, and the steps of every regular expression
that sees a user's text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.errors import InvalidEmail
from mailqueue.message import (
    Address,
    Attachment,
    Email,
    addresses,
    attachments,
    fields,
    file_types,
    headers,
    message,
    mime,
    parameters,
    raw_headers,
    stdlib_message,
    structured,
)
from mailqueue.vendors.limits import can_carry
from tests.backtracking import Steps, TooManyStepsError
from tests.for_each import for_each
from tests.unit.test_raw_headers import Maker, legacy, parsed

MODULES = (
    *(addresses, attachments, fields, file_types, headers, message, mime, parameters),
    *(raw_headers, stdlib_message),
)
PATTERNS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": found
    for module in (*MODULES, structured)
    for name, found in vars(module).items()
    if isinstance(found, re.Pattern)
}
SEARCHED = {
    *("headers._FORBIDDEN", "headers._ENCODED_WORD", "headers._WORD_PROPER", "headers._BEGINNING"),
    *("headers._HEX", "headers._NOT_BASE64", "addresses._SPACES", "headers._PIECE"),
    *("addresses._QUOTES", "addresses._COMMA", "addresses._ESCAPED", "headers._SURROGATE"),
    *("raw_headers._FOLD", "raw_headers._MARKS", "parameters._RUN", "parameters._ESCAPE"),
    "stdlib_message._CID",
}
SHAPES = (
    *("a", " ", '"', "\\", '\\"', 'a"', "=?", "=?a?q?a", "=?a?b?a?=", "=?x=", "?", "a.", "-", "a,"),
    *(";a=b", ';a="', 'x/y;a="\\', "<>", "a@", "é", "=3D", "\r\n ", "\n", "a ", "a\\", '"a"', "("),
)


@for_each("name", PATTERNS)
def test_no_pattern_takes_more_steps_than_in_proportion_to_its_text(name: str) -> None:
    def steps(text: str) -> int:
        counter = Steps(PATTERNS[name], text)
        return counter.search() if name in SEARCHED else counter.fullmatch()

    def linear(shape: str, start: str, end: str, n: int) -> bool:
        return steps(start + shape * 2 * n + end) < 2.5 * steps(start + shape * n + end) + 50

    for shape in SHAPES:
        for start, end in (("", ""), ("", "!"), ('"', "\\"), ("a/a", '"')):
            # A repeat with a bound is looked at beyond it.
            assert linear(shape, start, end, 15) or linear(shape, start, end, 200), (start, shape)


def test_every_pattern_that_is_searched_for_is_known() -> None:
    assert PATTERNS.keys() >= SEARCHED


def test_the_counter_notices_patterns_that_explode() -> None:
    for bad, text in (("(a+)+b", "a"), ("(a|a)*b", "a"), ("[ \t]*[^ \t]+", " "), ("a*a*b", "a")):
        once, twice = (Steps(re.compile(bad), text * n) for n in (6, 12))
        assert twice.search() > 3 * once.search()
    with pytest.raises(TooManyStepsError):
        Steps(re.compile("(a+)+b"), "a" * 30).search()


# --- all of it


HOSTILE: dict[str, Callable[[int], str]] = {
    "encoded words": lambda n: "=?utf-8?q?a" * (n // 11),
    "in base64": lambda n: "=?utf-8?b?a" * (n // 11),
    "of both kinds": lambda n: "=?utf-8?b?a=?utf-8?q?b" * (n // 22),
    "in many charsets": lambda n: "".join(f"=?c{i:06}?q?a" for i in range(n // 14)),
    "within each other": lambda n: "=?utf-8?q?" + "=3D=3Futf-8=3Fq=3F" * (n // 18),
    "in short": lambda n: "=??b?" * (n // 5),
    "quotes": lambda n: '"' * n,
    "escaped quotes": lambda n: '"' + '\\"' * (n // 2),
    "quoted words": lambda n: '"a" ' * (n // 4) + "<a@x.org>",
    "commas": lambda n: "a@x.org," * (n // 8),
    "blanks": lambda n: "a" + " " * n + "\x01",
    "dots": lambda n: "a." * (n // 2) + "@x.org",
    "labels": lambda n: "a@" + "é." * (n // 2),
    "parameters": lambda n: "a/b" + ";a=b" * (n // 4),
    "angles": lambda n: "<" * n + ">",
    "letters": lambda n: "é" * n,
}
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "from": lambda text: {"from": text},
    "a display name": lambda text: {"to": [f"{text} <a@x.org>"]},
    "a name in quotes": lambda text: {"cc": f'"{text}" <a@x.org>'},
    "an Address": lambda text: {"bcc": Address(text, "a@x.org")},
    "a pair": lambda text: {"reply_to": [("Ann", text)]},
    "subject": lambda text: {"subject": text},
    "a header": lambda text: {"headers": {"X-A": text}},
    "a header with addresses": lambda text: {"headers": {"Errors-To": text}},
    "a header with an id": lambda text: {"headers": {"List-Id": text}},
    "a header of words": lambda text: {"headers": {"References": text}},
    "Message-ID": lambda text: {"headers": {"Message-ID": text}},
    "a header's name": lambda text: {"headers": {text: "a"}},
    "a tag": lambda text: {"tags": [text]},
    "metadata": lambda text: {"metadata": {"k": text}},
    "a name in metadata": lambda text: {"metadata": {text: "v"}},
    "a name in options": lambda text: {"vendor_options": {"ses": {text: 1}}},
    "a file's name": lambda text: {"attachments": [Attachment(text, b"")]},
    "a file's type": lambda text: {"attachments": [Attachment("a", b"", text)]},
    "a file's id": lambda text: {"attachments": [Attachment("a", b"", "a/b", text)]},
    "an unknown key": lambda text: {text: 1},
}
MINIMAL: dict[str, Any] = {"from": "ann@example.com", "to": ["bob@example.org"], "text": "Hello"}
CALLS = 2_000  # of Python and into C, whatever the field holds; some take their share of length


def calls(run: Callable[[], object]) -> int:
    """Calls that ``run`` makes, also into C; it may end in a refusal, and in nothing else."""
    made = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        run()
    except InvalidEmail:
        pass
    finally:
        sys.setprofile(None)
    return made


@for_each("shape", HOSTILE)
def test_work_grows_with_the_length_in_every_field_of_a_mapping(shape: str) -> None:
    for name, changes in FIELDS.items():
        mappings = [MINIMAL | changes(HOSTILE[shape](n)) for n in (1_000, 2_000)]
        once, twice = (calls(partial(Email.from_mapping, m)) for m in mappings)
        assert twice < 2.5 * once + 100, name


@for_each("shape", HOSTILE)
def test_a_lot_of_it_is_taken_or_refused_at_once(shape: str) -> None:
    text = HOSTILE[shape](100_000)  # many more of it than these calls
    for name, changes in FIELDS.items():
        assert calls(partial(Email.from_mapping, MINIMAL | changes(text))) < CALLS, name


@for_each("made", [legacy, parsed])
@for_each("shape", sorted(HOSTILE.keys() - {"blanks"}))  # no message can hold these
def test_work_grows_with_the_length_of_a_header(made: Maker, shape: str) -> None:
    for name in ("To", "Subject", "Content-Type"):
        messages = [made(name, HOSTILE[shape](n)) for n in (200, 400)]
        once, twice = (calls(partial(Email.of, m)) for m in messages)
        assert twice < 2.6 * once + 300, name


@for_each("files", ["inline", "attached", "both"])
def test_work_grows_with_the_number_of_files(files: str) -> None:
    def made(n: int) -> Email:
        ids = {"inline": [True], "attached": [False], "both": [True, False]}[files]
        given = [Attachment(f"{i}", b"", "a/b", f"c{i}" if ids[i % len(ids)] else None)
                 for i in range(n)]  # fmt: skip
        return Email.from_mapping(MINIMAL | {"html": "<p>", "attachments": given})

    def sent(email: Email) -> None:
        mime.mime(email, message_id="<1@x.org>")
        for type_ in VENDOR_TYPES:
            can_carry(type_, email)

    once, twice = (calls(partial(sent, made(n))) for n in (100, 200))
    assert twice < 2.5 * once

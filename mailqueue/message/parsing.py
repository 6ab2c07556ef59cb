"""A message's octets, as a message of the standard library.

Decides: what is not even parsed. The library's parser takes a bare CR for the end of a line: who
can put one into a subject could add a field, a Bcc say. It makes objects of each part, field and
line that take many times their octets, and compares each line with the boundaries of all parts
around it.

Assumes: nothing about the octets. Lines end in CR LF or in LF.

Promises: whatever is refused is ``InvalidEmail``, which quotes nothing. Time and memory are in
proportion to the length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from email.policy import Policy, compat32

from mailqueue.errors import InvalidEmail

MAX_LINES = 1_000_000
MAX_ITEMS = 20_000  # parts and header fields
MAX_COMPARISONS = 20_000_000  # of a line with a boundary: about five seconds

_EMPTY_LINE = re.compile(rb"(^|\n)[\r\n]")  # after the header fields
_BARE_CR = re.compile(rb"\r(?!\n)")


def parse(raw: bytes | bytearray) -> Message:
    """The message; what is wrong in its fields and parts is found by who reads it.

    Raises ``InvalidEmail``.
    """
    empty = _EMPTY_LINE.search(raw)
    if _BARE_CR.search(raw, 0, empty.end(1) if empty else len(raw)):
        raise InvalidEmail("headers", "have a bare CR: end each line in CR LF or LF")
    lines = raw.count(b"\n")
    if lines > MAX_LINES:
        raise InvalidEmail("email", f"has more than {MAX_LINES} lines: attach it as a file")
    if lines * raw.lower().count(b"boundary") > MAX_COMPARISONS:
        raise InvalidEmail("email", "has too many parts for its length: attach fewer")
    budget = iter(range(MAX_ITEMS))
    policy = compat32.clone(message_factory=lambda policy: _Part(policy, budget))
    try:
        return message_from_bytes(raw, policy=policy)
    except RecursionError:
        raise InvalidEmail("email", "has parts nested too deeply") from None


class _Part(Message):
    """The message, or a part of it. All of them share one ``budget``."""

    def __init__(self, policy: Policy, budget: Iterator[int]) -> None:
        super().__init__(policy)
        self._budget = budget
        self._take()

    def set_raw(self, name: str, value: str) -> None:
        """One more field."""
        self._take()
        super().set_raw(name, value)

    def _take(self) -> None:
        if next(self._budget, None) is None:
            raise InvalidEmail("email", f"has more than {MAX_ITEMS} parts and header fields")

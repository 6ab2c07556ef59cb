"""How many steps a regular expression takes: a backtracking matcher that counts them.

It goes the ways of ``re``, on what ``re`` itself made of the pattern, one character a step. The
time that ``re`` takes cannot be counted from outside, and a clock tells more of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from re import _constants as c  # type: ignore[attr-defined]  # what a pattern is made of
from re import _parser  # type: ignore[attr-defined]
from typing import Any

Then = Iterator[int]
_CHARACTER = (c.LITERAL, c.NOT_LITERAL, c.IN, c.ANY)


class Steps:
    """Counts the steps of one pattern on one text."""

    def __init__(self, pattern: re.Pattern[Any], text: str) -> None:
        self.tree, self.known = _parsed(pattern)
        self.text = text
        self.ignore = bool(pattern.flags & re.IGNORECASE)
        self.taken = 0

    def fullmatch(self) -> int:
        """Steps until it is known whether all of the text matches."""
        next((end for end in self._sequence(self.tree, 0) if end == len(self.text)), None)
        return self.taken

    def search(self) -> int:
        """Steps until every match is found, as by ``findall`` and ``sub``."""
        at = 0
        while at <= len(self.text):
            end = next(self._sequence(self.tree, at), at)
            at = max(end, at + 1)
        return self.taken

    def _sequence(self, items: list[Any], at: int) -> Then:
        if not items:
            yield at
            return
        for middle in self._one(items[0], at):
            yield from self._sequence(items[1:], middle)

    def _one(self, item: Any, at: int) -> Then:
        self.taken += 1
        op, what = item
        if op in _CHARACTER:
            if at < len(self.text) and self._fits(op, what, self.text[at]):
                yield at + 1
        elif op in (c.MAX_REPEAT, c.MIN_REPEAT):
            assert op is c.MAX_REPEAT, "no pattern of ours needs the other kind"
            simple = len(what[2]) == 1 and what[2][0][0] in _CHARACTER
            yield from (self._run if simple else self._repeat)(what[0], what[1], what[2], at)
        elif op is c.SUBPATTERN:
            yield from self._sequence(list(what[3]), at)
        elif op is c.BRANCH:
            for branch in what[1]:
                yield from self._sequence(list(branch), at)
        elif op in (c.ASSERT, c.ASSERT_NOT):
            yield from self._look(op, what[0], what[1], at)
        elif op is c.AT:
            if self._stands(what, at):
                yield at
        else:
            raise NotImplementedError(op)

    def _run(self, least: int, most: int, inner: Any, at: int) -> Then:
        """The same of a single character."""
        op, what = inner[0]
        end, last = at, min(len(self.text), at + most)
        while end < last and self._fits(op, what, self.text[end]):
            end += 1
        for back in range(end, at + least - 1, -1):
            self.taken += 2
            yield back

    def _repeat(self, least: int, most: int, inner: Any, at: int) -> Then:
        """Goes as far as it can, then back, step by step (no recursion by the length)."""
        ends = [at]
        ways = [self._sequence(list(inner), at)]
        while ways:
            deeper = next(ways[-1], None) if len(ways) <= most else None
            if deeper is not None and deeper > ends[-1]:
                ends.append(deeper)
                ways.append(self._sequence(list(inner), deeper))
            else:
                ways.pop()
                end = ends.pop()
                if len(ends) >= least:
                    yield end

    def _look(self, op: Any, direction: int, inner: Any, at: int) -> Then:
        start = at if direction > 0 else at - 1  # behind: one character, in ours
        found = start >= 0 and next(self._sequence(list(inner), start), None) is not None
        if found is (op is c.ASSERT):
            yield at

    def _stands(self, what: Any, at: int) -> bool:
        """Whether this is the beginning of a line, or of a word or its end."""
        before, after = self.text[max(0, at - 1) : at], self.text[at : at + 1]
        if what is c.AT_BEGINNING:
            return before in ("", "\n")
        return {c.AT_BOUNDARY: _is_word(before) is not _is_word(after)}[what]

    def _fits(self, op: Any, what: Any, char: str) -> bool:
        if op is c.ANY:
            return char != "\n"
        key = (op, what if op is not c.IN else id(what), char)
        if key not in self.known:
            self.known[key] = self._look_up(op, what, char)
        return self.known[key]

    def _look_up(self, op: Any, what: Any, char: str) -> bool:
        cases = {char, char.swapcase()} if self.ignore else {char}
        if op is not c.IN:
            return (what in map(ord, cases)) is (op is c.LITERAL)
        negated = what[0][0] is c.NEGATE
        return negated is not any(_in(item, ord(case)) for item in what for case in cases)


@cache
def _parsed(pattern: re.Pattern[Any]) -> tuple[list[Any], dict[tuple[Any, int, str], bool]]:
    """What it is made of, and what is known already of the characters that fit in it."""
    source = pattern.pattern
    latin = source.decode("latin-1") if isinstance(source, bytes) else source
    return list(_parser.parse(latin, pattern.flags)), {}


def _in(item: Any, code: int) -> bool:
    op, what = item
    if op is c.LITERAL:
        return bool(code == what)
    if op is c.RANGE:
        return bool(what[0] <= code <= what[1])
    if op is not c.CATEGORY:
        return False
    return _CATEGORIES[what](chr(code))


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


_CATEGORIES = {
    c.CATEGORY_SPACE: str.isspace,
    c.CATEGORY_NOT_SPACE: lambda char: not char.isspace(),
    c.CATEGORY_DIGIT: str.isdigit,
    c.CATEGORY_WORD: _is_word,
}

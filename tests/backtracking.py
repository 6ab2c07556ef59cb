"""How many steps a regular expression takes: a backtracking matcher that counts them.

It goes the ways of ``re``, on what ``re`` itself made of the pattern, one character a step. The
time that ``re`` takes cannot be counted from outside, and a clock tells more of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from re import _constants as c  # type: ignore[attr-defined,unused-ignore]  # its parts
from re import _parser  # type: ignore[attr-defined,unused-ignore]  # private, without types
from typing import Any

Then = Iterator[int]
Items = tuple[tuple[Any, Any], ...]
_CHARACTER = (c.LITERAL, c.NOT_LITERAL, c.IN, c.ANY)
MOST = 500_000  # steps; ours take 60,000 at most, and one that explodes would take for ever


class TooManyStepsError(Exception):
    """A pattern takes more than ``MOST`` steps on a text."""


class Steps:
    """Counts the steps of one pattern on one text."""

    def __init__(self, pattern: re.Pattern[Any], text: str) -> None:
        self.tree = _parsed(pattern)
        self.text = text
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

    def _sequence(self, items: Items, at: int) -> Then:
        for number, (op, what) in enumerate(items):
            if op is not _CHARACTER:
                rest = items[number + 1 :]
                for middle in self._one(op, what, at):
                    yield from self._sequence(rest, middle) if rest else (middle,)
                return
            self.taken += 1
            if at >= len(self.text) or not what[self.text[at]]:
                return
            at += 1
        yield at

    def _one(self, op: Any, what: Any, at: int) -> Then:
        """Where this can end, if it begins here: all but a character."""
        self.taken += 1
        if self.taken > MOST:
            raise TooManyStepsError(self.taken)
        if op is c.MAX_REPEAT:
            least, most, inner = what
            simple = len(inner) == 1 and inner[0][0] is _CHARACTER
            yield from (self._run if simple else self._repeat)(least, most, inner, at)
        elif op is c.SUBPATTERN:
            yield from self._sequence(what, at)
        elif op is c.BRANCH:
            for branch in what:
                yield from self._sequence(branch, at)
        elif op in (c.ASSERT, c.ASSERT_NOT):
            yield from self._look(op, what[0], what[1], at)
        elif op is c.AT and self._stands(what, at):
            yield at

    def _run(self, least: int, most: int, inner: Items, at: int) -> Then:
        """A repeat of a single character."""
        fits = inner[0][1]
        end, last = at, min(len(self.text), at + most)
        while end < last and fits[self.text[end]]:
            end += 1
        for back in range(end, at + least - 1, -1):
            self.taken += 2
            yield back

    def _repeat(self, least: int, most: int, inner: Items, at: int) -> Then:
        """Goes as far as it can, then back, step by step (no recursion by the length)."""
        ends = [at]
        ways = [self._sequence(inner, at)]
        while ways:
            deeper = next(ways[-1], None) if len(ways) <= most else None
            if deeper is not None and deeper > ends[-1]:
                ends.append(deeper)
                ways.append(self._sequence(inner, deeper))
            else:
                ways.pop()
                end = ends.pop()
                if len(ends) >= least:
                    yield end

    def _look(self, op: Any, direction: int, inner: Items, at: int) -> Then:
        start = at if direction > 0 else at - 1  # behind: one character, in ours
        found = start >= 0 and next(self._sequence(inner, start), None) is not None
        if found is (op is c.ASSERT):
            yield at

    def _stands(self, what: Any, at: int) -> bool:
        """Whether this is the beginning of a line, or of a word or its end."""
        before, after = self.text[max(0, at - 1) : at], self.text[at : at + 1]
        if what is c.AT_BEGINNING:
            return before in ("", "\n")
        return {c.AT_BOUNDARY: _is_word(before) is not _is_word(after)}[what]


class _Fits(dict[str, bool]):
    """Whether a character fits; each is looked at once."""

    def __init__(self, op: Any, what: Any, *, ignore_case: bool) -> None:
        super().__init__()
        self._op, self._what, self._ignore_case = op, what, ignore_case

    def __missing__(self, char: str) -> bool:
        self[char] = fits = self._look_up(char)
        return fits

    def _look_up(self, char: str) -> bool:
        if self._op is c.ANY:
            return char != "\n"
        cases = {char, char.swapcase()} if self._ignore_case else {char}
        if self._op is not c.IN:
            return (self._what in map(ord, cases)) is (self._op is c.LITERAL)
        negated = self._what[0][0] is c.NEGATE
        return negated is not any(_in(item, ord(case)) for item in self._what for case in cases)


@cache
def _parsed(pattern: re.Pattern[Any]) -> Items:
    source = pattern.pattern
    latin = source.decode("latin-1") if isinstance(source, bytes) else source
    return _items(_parser.parse(latin, pattern.flags), bool(pattern.flags & re.IGNORECASE))


def _items(parsed: Any, ignore_case: bool) -> Items:
    """The same without what nobody asks for, and quick to go through."""
    return tuple(_item(op, what, ignore_case) for op, what in parsed)


def _item(op: Any, what: Any, ignore_case: bool) -> tuple[Any, Any]:
    if op in _CHARACTER:
        return _CHARACTER, _Fits(op, what, ignore_case=ignore_case)
    if op is c.MAX_REPEAT:  # no pattern of ours needs the other kind
        return op, (what[0], what[1], _items(what[2], ignore_case))
    if op is c.SUBPATTERN:
        return op, _items(what[3], ignore_case)
    if op is c.BRANCH:
        return op, tuple(_items(branch, ignore_case) for branch in what[1])
    if op in (c.ASSERT, c.ASSERT_NOT):
        return op, (what[0], _items(what[1], ignore_case))
    if op is c.AT:
        return op, what
    raise NotImplementedError(op)


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

"""Keys as data, and the problems of a configuration.

Decides: which values a key accepts, and how problems are collected: the first one of each path.
Promises: no problem quotes a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from mailqueue.config.checks import Check, anything
from mailqueue.errors import ConfigError, did_you_mean

_TYPES: Mapping[type, tuple[str, type | tuple[type, ...]]] = {
    str: ("a string", str),
    int: ("an integer", int),
    float: ("a number", (int, float)),
    bool: ("true or false", bool),
    tuple: ("a list of strings", (list, tuple)),
    dict: ("an object", Mapping),
    object: ("an object", object),  # a section inside a section, which looks at its keys itself
    list: ("a list of objects", (list, tuple)),
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key as data. Absent is the same as None.

    ``default`` may be a function of the entry's keys before it. ``secret``: never shown, and a file
    should name an environment variable for it.
    """

    type: type
    meaning: str
    check: Check = anything
    default: Any = None
    required: bool = False
    secret: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with this value, or None. It never quotes the value."""
        if value is None and self.required:
            return "required key is missing"
        if value is None and self.default is None:
            return None
        fits = isinstance(value, bool) == (self.type is bool)  # to Python, True is an integer
        if not fits or not isinstance(value, _TYPES[self.type][1]):
            return f"must be {_TYPES[self.type][0]}"
        if isinstance(value, str) and re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value):
            return "must not contain control characters"
        return self.check(value)


class Problems(dict[str, str]):
    """What is wrong, by path. The first problem of a key stands."""

    def __init__(self, parent: Problems | None = None, path: str = "") -> None:
        super().__init__()
        self._parent = parent
        self._path = path

    def under(self, path: str) -> Self:
        """The problems of the keys under ``path``, which are added here with their whole path."""
        return type(self)(self, path)

    def add(self, path: str, problem: str | None) -> None:
        """Add a problem of the key at ``path`` ("": of the section itself); None: do nothing."""
        if not problem:
            return
        self.setdefault(path, problem)
        if self._parent is not None:
            dot = "." if self._path and path else ""
            self._parent.add(f"{self._path}{dot}{path}", problem)

    def add_unknown(self, names: Iterable[Any], keys: Iterable[str]) -> None:
        """Add a problem for each name that is not among ``keys``."""
        for name in map(str, names):
            if name not in keys:
                self.add(name, "unknown key" + did_you_mean(name, keys))

    def raise_all(self) -> None:
        """Raise ConfigError if there is a problem."""
        if self:
            raise ConfigError([f"{path}: {problem}" for path, problem in self.items()])

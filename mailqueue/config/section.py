"""A section of the configuration: a dataclass whose fields carry their keys as data.

Decides: how a section is checked, and how one is made of a mapping.
Promises: a section that exists is valid, whoever made it; all problems are reported at once.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Self

from mailqueue.config import checks
from mailqueue.config.keys import Key, Problems


def key(
    type_: type, default: Any, meaning: str, check: checks.Check = checks.anything, **more: Any
) -> Any:
    """A field with a default; without one (``...``) the key is required.

    ``more`` are arguments of ``dataclasses.field``.
    """
    if default is ...:
        required = Key(type_, meaning, check, required=True)
        return field(metadata={"key": required}, **more)
    optional = Key(type_, meaning, check, default)
    return field(default_factory=lambda: copy.copy(default), metadata={"key": optional}, **more)


def keys_of(section: type[Section]) -> Mapping[str, Key]:
    """The keys of a section, as a file names them."""
    return {_name(f): f.metadata["key"] for f in _fields(section) if f.metadata}


class Section:
    """A section is checked when it is made. Subclasses are frozen dataclasses of ``key`` fields."""

    __slots__ = ()

    derived: ClassVar[Mapping[str, str]] = {}
    """Names that are no keys of a file, each with the problem that names the key to use."""

    def __post_init__(self) -> None:
        problems = Problems()
        self._check({f.name: getattr(self, f.name) for f in _fields(type(self))}, problems)
        problems.raise_all()

    @classmethod
    def from_mapping(cls, mapping: Mapping[Any, Any], problems: Problems) -> Self | None:
        """The section as a file holds it; None: something is wrong with it."""
        for name in mapping:
            problems.add(str(name), cls.derived.get(name))
        problems.add_unknown(mapping, keys_of(cls))
        return cls._from_attributes(cls._attributes(mapping), problems)

    @classmethod
    def _attributes(cls, mapping: Mapping[Any, Any]) -> dict[str, Any]:
        """The values of the section's keys, by the names of its attributes."""
        fields = [attribute for attribute in _fields(cls) if attribute.metadata]
        return {f.name: mapping[_name(f)] for f in fields if _name(f) in mapping}

    @classmethod
    def _from_attributes(cls, attributes: Mapping[str, Any], problems: Problems) -> Self | None:
        cls._check(attributes, problems)
        return None if problems else cls(**attributes)

    @classmethod
    def _check(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        for attribute in _fields(cls):
            for each in attribute.metadata.values():
                value = attributes.get(attribute.name, each.default)
                problems.add(_name(attribute), each.problem(value))
        cls._check_further(attributes, problems)

    @classmethod
    def _check_further(cls, attributes: Mapping[str, Any], problems: Problems) -> None:
        """Add the problems that no single key shows."""


def section_of(section: type[Section], value: Any, problems: Problems) -> Section | None:
    """The section, made from a mapping if it is one; None: something is wrong with it."""
    if isinstance(value, section):
        return value
    if isinstance(value, Mapping):
        return section.from_mapping(value, problems)
    problems.add("", "must be an object")
    return None


def section_list(
    place: str, section: type[Section], entries: Sequence[Any], problems: Problems
) -> tuple[Section | None, ...]:
    """The sections in the list at ``place``, of which no two have the same name."""
    sections, places = [], dict[str, str]()
    for i, entry in enumerate(entries):
        own, own_problems = f"{place}[{i}]", problems.under(f"{place}[{i}]")
        name = entry.get("name") if isinstance(entry, Mapping) else getattr(entry, "name", None)
        if name and (first := places.setdefault(str(name), own)) != own:
            own_problems.add("name", f"duplicate name: {first} has it too")
        sections.append(section_of(section, entry, own_problems))
    return tuple(sections)


def _fields(section: type[Section]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(section)  # type: ignore[arg-type]  # every section is a dataclass


def _name(attribute: dataclasses.Field[Any]) -> str:
    return attribute.name.rstrip("_")  # ``from`` is a keyword of Python

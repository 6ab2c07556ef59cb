"""The README's table of the configuration is made from the code.

``python tests/unit/test_readme.py`` writes it anew between its two marker comments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mailqueue.config import SECTIONS, VENDOR_TYPES, Key, keys_of

README = Path(__file__).parents[2] / "README.md"
MARKED = re.compile(r"(<!-- config table -->\n).*(<!-- /config table -->)", re.DOTALL)
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}


def config_table() -> str:
    """Every key with type, default and meaning, as a Markdown table."""
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows()]) + "\n"


def rows() -> Iterator[str]:
    for section, kind in SECTIONS.items():
        place = "vendors[]" if section == "vendors" else section
        for name, key in keys_of(kind).items():
            yield row(f"`{place}.{name}`", key)
        if section == "vendors":
            for type_, vendor in VENDOR_TYPES.items():
                for name, key in vendor.keys.items():
                    yield row(f"`{place}.{name}` of `{type_}`", key)


def row(place: str, key: Key) -> str:
    kind = TYPES.get(key.type, "list of strings")
    return f"| {place} | {kind} | {default(key)} | {key.meaning} |"


def default(key: Key) -> str:
    if key.required:
        return "required"
    if callable(key.default):
        return str(key.default.__doc__)
    if key.default is None:
        return "none"
    if isinstance(key.default, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in key.default) + "]`"
    shown = str(key.default).lower() if key.type is bool else str(key.default)
    return f"`{shown}`"


def with_table(readme: str) -> str:
    return MARKED.sub(lambda marks: marks[1] + config_table() + marks[2], readme)


def test_the_readme_lists_every_key_of_the_configuration() -> None:
    """If it does not: python tests/unit/test_readme.py"""
    readme = README.read_text("utf-8")
    assert MARKED.search(readme)
    assert with_table(readme) == readme


def test_every_key_has_a_meaning_that_fits_in_a_table() -> None:
    own = [key for vendor in VENDOR_TYPES.values() for key in vendor.keys.values()]
    for key in [key for section in SECTIONS.values() for key in keys_of(section).values()] + own:
        assert key.meaning
        assert "|" not in key.meaning
        assert "\n" not in key.meaning


if __name__ == "__main__":
    README.write_text(with_table(README.read_text("utf-8")), "utf-8")

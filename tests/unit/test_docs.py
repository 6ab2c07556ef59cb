"""The documentation: its tables are those of the code, and its links lead somewhere.

Their code is run by tests/integration/test_docs_code.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailqueue.config import SECTIONS, VENDOR_TYPES, keys_of
from tests import tables
from tests.tables import REPO

PAGES = [*REPO.glob("*.md"), *(REPO / "docs").glob("*.md"), REPO / "tests/bench/LOG.md"]
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@pytest.mark.parametrize("name", tables.PAGES)
def test_a_table_in_the_documentation_is_that_of_the_code(name: str) -> None:
    """If one is not: python -m tests.tables"""
    text = tables.PAGES[name][0].read_text("utf-8")
    assert tables.marked(name).search(text)
    assert tables.with_table(text, name) == text


def test_every_key_has_a_meaning_that_fits_in_a_table() -> None:
    own = [key for vendor in VENDOR_TYPES.values() for key in vendor.keys.values()]
    for key in [key for section in SECTIONS.values() for key in keys_of(section).values()] + own:
        assert key.meaning
        assert "|" not in key.meaning
        assert "\n" not in key.meaning


def anchors(page: Path) -> Iterator[str]:
    """The names by which GitHub links to the page's headings."""
    for heading in HEADING.findall(page.read_text("utf-8")):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_links(page: Path) -> Iterator[str]:
    for path, anchor in LINK.findall(page.read_text("utf-8")):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in set(anchors(target))):
            yield f"{path}#{anchor}" if anchor else path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_in_the_documentation_leads_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []

"""The screenshots in the documentation: those that their command makes, and no others."""

from __future__ import annotations

import re
import struct

import pytest

from tests.dashboard.screenshots import FOLDER, VIEWS, View
from tests.tables import REPO

MOST = 150_000  # bytes of a file


def test_the_pages_show_the_screenshots_that_there_are() -> None:
    """If not: python -m tests.dashboard.screenshots"""
    pages = [REPO / "README.md", *(REPO / "docs").glob("*.md")]
    shown = {
        name
        for page in pages
        for name in re.findall(
            r"!\[[^\]]+\]\([\w/]*screenshots/([\w.-]+)\)", page.read_text("utf-8")
        )
    }
    files = {file.name for file in FOLDER.iterdir()}
    assert shown == {view.file for view in VIEWS} == files
    assert len(VIEWS) == len(files)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.file)
def test_a_screenshot_is_small_and_as_wide_as_its_view(view: View) -> None:
    content = (FOLDER / view.file).read_bytes()
    (width,) = struct.unpack(">I", content[16:20])
    assert content.startswith(b"\x89PNG")
    assert (width, len(content) < MOST) == (view.width, True)

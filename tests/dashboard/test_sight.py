"""The check of contrast and width finds what is wrong, and nothing else."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from selenium.webdriver import Chrome

from tests.dashboard.conftest import show_as
from tests.dashboard.sight import faults


def show(browser: Chrome, body: str) -> list[str]:
    html = f"<!doctype html><style>body{{background:#fff;color:#000}}</style>{body}"
    browser.get(f"data:text/html,{quote(html)}")
    return faults(browser)


@pytest.mark.parametrize(
    "body",
    [
        '<p style="color:#767676">4.54',
        '<p style="color:#949494;font-size:24px">3.03, large',
        '<p style="color:#fff;background:#000">21',
        '<p style="color:#ccc;visibility:hidden">not there</p>is there',
        '<svg><text y="20" fill="#767676">4.54',
        '<p style="color:rgba(0,0,0,0.6)">5.74',
        '<input style="border:1px solid #949494">',
    ],
)
def test_what_is_seen_well_is_no_fault(browser: Chrome, body: str) -> None:
    assert show(browser, f"<p>text</p>{body}") == []


@pytest.mark.parametrize(
    "body, what",
    [
        ('<p style="color:#777">4.48', "contrast 4.48, needs 4.5"),
        ('<p style="color:#999;font-size:24px">large', "needs 3"),
        ('<p style="background:#222"><b>black on nearly black', "needs 4.5"),
        ('<div style="background:#000"><p style="background:rgba(255,255,255,0.2)">x', "needs 4.5"),
        ('<p style="opacity:0.5">half', "needs 4.5"),
        ('<p style="color:oklch(0.8 0 0)">pale', "needs 4.5"),
        ('<p style="background:linear-gradient(red,blue)">x', "stands on an image"),
        ('<svg><text y="20" fill="#aaa">pale', "needs 4.5"),
        ('<svg><g class="series"><rect width="9" height="9" fill="#ddd"/></g></svg>x', "a bar"),
        ('<details><summary>open</summary><p style="color:#999">hidden', "hidden"),
        ('<style>p::before{content:"label";color:#999}</style><p>x', "::before"),
        ('<input placeholder="x"><style>::placeholder{color:#bbb}</style>', "::placeholder"),
        ('<button style="color:#999;background:#fff">x', "needs 4.5"),
        ('<input style="border:1px solid #ddd">', "the border"),
        ('<p style="width:2000px">x', "pixels wide"),
        ("", "no text"),
    ],
)
def test_what_is_hard_to_see_is_found(browser: Chrome, body: str, what: str) -> None:
    assert any(what in fault for fault in show(browser, body))


def test_the_dark_scheme_is_looked_at_as_it_is(browser: Chrome) -> None:
    style = "<style>@media (prefers-color-scheme: dark) { body { color: #333 } }</style>"
    assert show(browser, f"{style}<p>x") == []
    show_as(browser, 1280, scheme="dark")
    assert show(browser, f"{style}<p>x") == []
    assert show(browser, f"{style}<p style='background:#161616'>x")

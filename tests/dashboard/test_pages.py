"""Every page, as eyes see it: contrast and width, at a desk and on a phone, by day and at night."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import pytest
from pymongo.collection import Collection
from selenium.webdriver import Chrome

from mailqueue.dashboard.application import TABLE
from tests.conftest import Document
from tests.dashboard import scene
from tests.dashboard.conftest import show_as
from tests.dashboard.scene import Scene
from tests.dashboard.screenshots import SCHEMES, WIDTHS, failed_over
from tests.dashboard.sight import faults
from tests.http_service import HttpService

Place = str | Callable[[Scene], str]


def uncertain(stage: Scene) -> str:
    return email(stage, "uncertain")


def email(stage: Scene, status: str) -> str:
    document = stage.emails.find_one({"status": status})
    return f"/emails/{document['_id']}" if document else "/emails/none"


PAGES: Mapping[str, tuple[Place, ...]] = {
    "/": ("/", "/?refresh=on"),
    "/emails": ("/emails", "/emails?status=sent&to=nobody"),
    "/emails/{id}": (failed_over, uncertain, lambda stage: email(stage, "failed")),
    "/emails/{id}/content": (lambda stage: f"{failed_over(stage)}/content",),
    "/emails/{id}/html": (),  # it is the e-mail's own
    "/failed": ("/failed",),
    "/uncertain": ("/uncertain",),
    "/confirm": (
        *("/confirm?verb=retry&which=all&status=uncertain",),
        *("/confirm?verb=cancel&which=all&status=queued", "/confirm"),
    ),
    "/result": ("/result?verb=retry&changed=3&unchanged=1",),
    "/vendors": ("/vendors", "/vendors?done=enable&of=vendor:ses"),
    "/vendors/{action}": (
        *("/vendors/drain?of=vendor:smtp", "/vendors/enable?of=vendor:ses"),
        *("/vendors/release?of=tag:newsletter", "/vendors/hold?of=all"),
    ),
    "/{path}": ("/nothing-there",),
}
"""What is looked at for each address that a browser may get."""


def test_every_page_is_looked_at() -> None:
    assert {path for path, views in TABLE.items() if "GET" in views} <= PAGES.keys()


ALL = [place for places in PAGES.values() for place in places]


@pytest.mark.parametrize(
    "installation, places",
    [
        (scene.trouble, ALL),
        (Scene, [place for place in ALL if isinstance(place, str)]),  # nothing is stored yet
        (scene.healthy, ["/"]),
        (scene.crowded, ["/", "/vendors", "/vendors/enable?of=vendor:ses"]),
    ],
    ids=["trouble", "nothing", "healthy", "crowded"],
)
def test_every_page_is_easy_to_see_and_no_wider_than_its_window(
    site: HttpService,
    browser: Chrome,
    emails: Collection[Document],
    installation: Callable[[Collection[Document]], Scene],
    places: Sequence[Place],
) -> None:
    stage = installation(emails)
    found = {}
    for each in places:
        place = each if isinstance(each, str) else each(stage)
        browser.get(f"{site.url}/dashboard{place}")
        for width, scheme in product(WIDTHS, SCHEMES):
            show_as(browser, width, scheme=scheme)
            if problems := faults(browser):
                found[place, width, scheme] = problems
    assert found == {}

"""The list of e-mails: filters, pages in both directions, and what it costs over 100,000."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from bson import ObjectId
from pymongo import WriteConcern
from pymongo.collection import Collection
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from mailqueue.config import Config
from mailqueue.dashboard.emails import PAGE
from mailqueue.store.store import Store
from tests.conftest import Document
from tests.dashboard.conftest import Client, new_page
from tests.dashboard.stored import SECRETS, email, failed, many, store, tried, uncertain
from tests.http_service import HttpService

NUMBER = 100_000


def shown(page: str) -> list[str]:
    """The ids in the rows of a list, from above."""
    return re.findall(r'<th scope="row"><a class="id" href="/dashboard/emails/(\w{24})"', page)


def link(page: str, rel: str) -> str | None:
    """Where the link to the next or the previous page leads, below the dashboard."""
    match = re.search(rf'rel="{rel}" href="/dashboard([^"]+)"', page)
    return None if match is None else html.unescape(match[1])


def test_the_newest_comes_first_and_nothing_of_the_content_is_shown(
    client: Client, emails: Collection[Document]
) -> None:
    old, new = store(emails, email(60, tags=["invoice"]), failed(5))
    page = client.get("/emails").text
    assert shown(page) == [str(new), str(old)]
    assert "invoice" in page
    assert not [secret for secret in SECRETS if secret in page]


def test_a_time_is_as_a_person_reads_it_and_exact_on_hover(
    client: Client, emails: Collection[Document]
) -> None:
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=4, seconds=20)
    store(emails, email(created_at=at, updated_at=at))
    page = client.get("/emails").text
    exact = at.strftime("%Y-%m-%d %H:%M:%S UTC")
    assert f'title="{exact}">4 min ago</time>' in page


@pytest.mark.parametrize(
    "query, number",
    [
        *(("status=failed", 1), ("status=uncertain", 1), ("status=queued", 3)),
        *(("reason=rejected", 1), ("vendor=second", 1), ("tag=news", 1), ("mode=simulated", 1)),
        *(("age=hour", 4), ("age=over-hour", 1), ("age=week", 5)),
        *(("to=bob%40example.org", 1), ("to=BOB%40EXAMPLE.ORG", 1), ("to=no%40example.org", 0)),
        *(("status=failed&tag=news", 0), ("status=&tag=", 5)),
    ],
)
def test_a_filter_finds_what_it_says(
    client: Client, emails: Collection[Document], query: str, number: int
) -> None:
    to_bob = {"from": "a@example.com", "to": ["bob@example.org"], "subject": "x", "text": "y"}
    store(
        emails,
        email(90, tags=["news"]),
        email(content=to_bob),
        email(env="simulated"),
        failed(),
        uncertain(**tried("second", "unknown", "", 0)),
    )
    page = client.get(f"/emails?{query}")
    assert (page.status_code, len(shown(page.text))) == (200, number)


@pytest.mark.parametrize("query", ["status=gone", "reason=%00", "age=soon", "mode=x", "to=ann"])
def test_a_filter_that_makes_no_sense_is_named(client: Client, query: str) -> None:
    page = client.get(f"/emails?{query}")
    assert page.status_code == 400


def test_an_empty_list_says_what_to_do(client: Client) -> None:
    assert "Producer.send()" in client.get("/emails").text
    assert "nothing to do" in client.get("/failed").text
    assert "nothing to decide" in client.get("/uncertain").text
    assert "Clear the filter" in client.get("/failed?tag=x").text


@pytest.mark.parametrize("section", ["emails", "failed", "uncertain"])
def test_pages_lead_through_all_e_mails_and_back(
    client: Client, emails: Collection[Document], section: str
) -> None:
    at = datetime.now(UTC).replace(microsecond=0)
    make: Any = {"failed": failed, "uncertain": uncertain}.get(section, email)
    documents = [
        make(created_at=at, updated_at=at, email={"tags": ["news"]}) for _ in range(2 * PAGE + 7)
    ]
    newest_first = [str(each) for each in sorted(store(emails, *documents), reverse=True)]
    place, pages = f"/{section}?tag=news", []
    while place:
        page = client.get(place).text
        pages.append(page)
        place = link(page, "next") or ""
    assert [each for page in pages for each in shown(page)] == newest_first
    assert link(pages[0], "prev") is None
    for newer, older in pairwise(pages):
        assert shown(client.get(link(older, "prev") or "").text) == shown(newer)


@pytest.mark.parametrize("place", ["emails?after=x", "failed?after=1-x", f"failed?before={9**99}-"])
def test_a_page_that_is_nobodys_is_not_found(client: Client, place: str) -> None:
    assert client.get(f"/{place}").status_code == 404


@pytest.mark.parametrize("make, place", [(failed, "/failed"), (uncertain, "/uncertain")])
def test_what_waits_for_a_person_comes_by_its_end_the_last_first(
    client: Client, emails: Collection[Document], make: Any, place: str
) -> None:
    """One of a page that was retried meanwhile leaves the others where they are."""
    now = datetime.now(UTC)
    ended = [make(n, updated_at=now - timedelta(minutes=n % 3, hours=n)) for n in range(PAGE + 5)]
    ended[7]["updated_at"] = now  # stored long ago, and tried until now
    ids = [str(each) for each in store(emails, *ended)]
    expected = [ids[7], *(each for each in ids if each != ids[7])]
    first = client.get(place).text
    assert shown(first) == expected[:PAGE]
    last = {"status": "queued", "updated_at": datetime.now(UTC)}
    emails.update_one({"_id": ObjectId(expected[PAGE - 1])}, {"$set": last})
    assert shown(client.get(link(first, "next") or "").text) == expected[PAGE:]


def test_any_page_of_many_e_mails_costs_as_much_as_its_rows(
    client: Client,
    config: Config,
    emails: Collection[Document],
    site: HttpService,
    browser: Chrome,
) -> None:
    """Counted in documents that MongoDB looks at: for the first pages, the last, and those between.

    Of a filter that one e-mail in a hundred matches, those between are looked at too. A browser
    goes from page to page and back.
    """
    database = emails.database
    opened = Store(config.mongodb, env="production", callbacks=config.callbacks)
    opened.ensure_indexes()
    opened.close()
    unsafe = emails.with_options(write_concern=WriteConcern(1))
    unsafe.insert_many(many(NUMBER), ordered=False)
    ids = [f"{n:024x}" for n in range(NUMBER)]
    database.command("profile", 2, filter={"op": {"$in": ["command", "query"]}})
    try:
        for query, first in (
            ("", ids[-1]),
            (f"?after={ids[-PAGE]}", ids[-PAGE - 1]),
            (f"?after={ids[NUMBER // 2]}", ids[NUMBER // 2 - 1]),
            (f"?after={ids[1]}", ids[0]),
            (f"?before={ids[NUMBER // 2]}", ids[NUMBER // 2 + PAGE]),
            (f"?before={ids[0]}", ids[PAGE]),
            ("?status=sent", ids[-1]),
            (f"?status=sent&before={ids[NUMBER // 2]}", None),
        ):
            rows = shown(client.get(f"/emails{query}").text)
            assert rows[0] == (first or rows[0])
        costs = _examined(emails)
        assert costs
        assert max(costs) <= 2 * PAGE + 10
        failed = client.get("/failed").text
        assert shown(failed) == ids[-100 : -100 * PAGE - 1 : -100]
        assert shown(client.get(link(failed, "next") or "").text)[0] == ids[-100 * (PAGE + 1)]
        assert max(_examined(emails)) <= 2 * PAGE + 10
        browser.get(f"{site.url}/dashboard/emails")
        newest = shown(browser.page_source)
        assert newest == ids[: -PAGE - 1 : -1]
        for rel, expected in (("next", ids[-PAGE - 1 : -2 * PAGE - 1 : -1]), ("prev", newest)):
            with new_page(browser):
                browser.find_element(By.CSS_SELECTOR, f"a[rel={rel}]").click()
            assert shown(browser.page_source) == expected
    finally:
        database.command("profile", 0)
        database.drop_collection("system.profile")
        emails.drop()


def _examined(emails: Collection[Document]) -> list[int]:
    """The documents that MongoDB looked at for each page."""
    entries = emails.database["system.profile"].find({"command.aggregate": emails.name})
    return [
        entry["docsExamined"] for entry in entries if "$sort" in str(entry["command"]["pipeline"])
    ]

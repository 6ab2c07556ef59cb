"""Vendors and holds: what is shown, what is asked before a change, and what it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest
from pymongo.collection import Collection
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from mailqueue.config import Config
from mailqueue.errors import StoreUnavailable
from mailqueue.queue import open_broker
from mailqueue.store.document import HELD
from mailqueue.store.store import Store
from tests.conftest import Document
from tests.dashboard import scene
from tests.dashboard.conftest import Client, new_page
from tests.dashboard.scene import Scene
from tests.dashboard.test_overview import text_of
from tests.http_service import HttpService, Key


@pytest.fixture(autouse=True)
def in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the process of ``site`` is. No consumer runs beside it, so nobody looks twice."""
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    monkeypatch.setattr("mailqueue.store.control.SECOND_LOOK", 0.0)


@pytest.fixture
def stage(emails: Collection[Document]) -> Scene:
    return scene.trouble(emails)


@pytest.fixture
def read_only(shared_settings: Document, emails: Collection[Document]) -> Iterator[Client]:
    settings = {**shared_settings, "http": {"dashboard": {"read_only": True}}}
    with closing(Client(Config.from_mapping(settings))) as client:
        yield client


def control_of(stage: Scene, name: str) -> Document:
    document = stage.beside("control").find_one({"_id": name})
    assert document is not None
    return document


def change(client: Client, action: str, of: str, **form: str) -> str:
    """Post it, and read the page that follows."""
    answer = client.post(f"/vendors/{action}", {"of": of, **form})
    assert answer.status_code == 303
    return text_of(client, answer.headers["location"].removeprefix("/dashboard"))


def actions(client: Client) -> set[str]:
    page = client.get("/vendors").text
    return {each.partition('"')[0] for each in page.split('href="/dashboard/vendors/')[1:]}


# What is asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place, words",
    [
        ("enable?of=vendor:ses", "ses is unavailable: misconfigured 403, 2 h ago."),
        ("enable?of=vendor:ses", "There are 200 queued e-mails that may go there."),
        ("drain?of=vendor:ses", "Its share of 200 queued e-mails goes to smtp,"),
        ("drain?of=vendor:smtp", "No other vendor is available: 200 queued e-mails may have to"),
        ("undrain?of=vendor:mailgun-eu", "Drained by ann, 3 h ago"),
        ("undrain?of=vendor:mailgun-eu", "2 e-mails, for which every vendor was drained, go on"),
        ("hold?of=vendor:smtp", "Those of 200 queued e-mails whose turn it is at smtp wait"),
        ("hold?of=priority:high", "47 queued e-mails, and all that come, wait"),
        ("hold?of=all", "200 queued e-mails, and all that come, wait"),
        ("release?of=tag:newsletter", "Tag newsletter is held by bob, 1 d ago: wrong price"),
        ("release?of=tag:newsletter", "60 e-mails go on at once"),
    ],
)
def test_before_a_change_it_is_said_what_happens_and_to_how_many_e_mails(
    client: Client, stage: Scene, place: str, words: str
) -> None:
    held: Document = {"due_at": HELD, "hold": "drain"}
    some = stage.emails.find({"hold": None, "status": "queued"}).sort("_id").limit(2)
    stage.emails.update_many({"_id": {"$in": [each["_id"] for each in some]}}, {"$set": held})
    before = list(stage.beside("control").find())
    assert words in text_of(client, f"/vendors/{place}")
    assert list(stage.beside("control").find()) == before


def test_more_e_mails_than_can_be_counted_stop_nothing(
    client: Client, stage: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hold of millions is shown as quickly as one of a few."""
    for module in ("vendors", "overview"):
        monkeypatch.setattr(f"mailqueue.dashboard.{module}.COUNTED", 50)
    assert "50 e-mails or more go on" in text_of(client, "/vendors/release?of=tag:newsletter")
    assert "wrong price in the lead 50 or more Release" in text_of(client)

    def count(*_: Any) -> int:
        raise StoreUnavailable("timed out")

    monkeypatch.setattr(Store, "count", count)
    place = "/vendors/release?of=tag:newsletter"
    assert "more e-mails than can be counted quickly go on" in text_of(client, place)
    text = change(client, "release", "tag:newsletter")
    assert "tag newsletter is not held any more. What waited goes on." in text
    assert stage.emails.count_documents({"hold": "tag:newsletter"}) == 0


def test_a_number_that_is_none_is_not_told(client: Client) -> None:
    for number in ("9" * 5000, "-1", "x"):
        page = client.get(f"/vendors?done=release&of=tag:x&emails={number}")
        assert "tag x is not held any more. What waited goes on." in page.text


def test_whoever_is_second_is_told_so(
    client: Client, stage: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both had the page that asks."""

    def quicker(*_: object) -> None:
        stage.control("drain", "smtp", stage.now, "bob", "mine")

    monkeypatch.setattr("mailqueue.dashboard.vendors._check", quicker)
    answer = client.post("/vendors/drain", {"of": "vendor:smtp", "reason": "yours"})
    assert answer.status_code == 409
    assert "Vendor smtp is drained already." in answer.text
    assert control_of(stage, "drain:smtp")["by"] == "bob"


def test_what_is_shown_can_be_changed_and_nothing_else(client: Client, stage: Scene) -> None:
    assert actions(client) == {
        *("enable?of=vendor%3Ases", "drain?of=vendor%3Ases", "hold?of=vendor%3Ases"),
        *("undrain?of=vendor%3Amailgun-eu", "hold?of=vendor%3Amailgun-eu"),
        *("drain?of=vendor%3Asmtp", "hold?of=vendor%3Asmtp", "release?of=tag%3Anewsletter"),
        *("hold?of=all", "hold?of=priority%3Ahigh", "hold?of=priority%3Anormal"),
        "hold?of=priority%3Abulk",
    }
    for place in actions(client):
        assert client.get(f"/vendors/{place}").status_code == 200


@pytest.mark.parametrize(
    "action, of, status, words",
    [
        ("drain", "vendor:mailgun-eu", 409, "Vendor mailgun-eu is drained already."),
        ("undrain", "vendor:smtp", 409, "Vendor smtp is not drained any more."),
        ("enable", "vendor:smtp", 409, "Vendor smtp is available already."),
        ("hold", "tag:newsletter", 409, "Tag newsletter is held already."),
        ("release", "all", 409, "Everything is not held any more."),
        ("drain", "vendor:unheard-of", 404, "No such vendor is configured."),
        ("hold", "vendor:unheard-of", 404, "No such vendor is configured."),
        ("hold", "priority:urgent", 404, "There is no such class."),
        ("enable", "tag:newsletter", 404, "There is nothing at this address."),
        ("erase", "vendor:ses", 404, "There is nothing at this address."),
        ("hold", "all:x", 404, "There is nothing at this address."),
        ("hold", "tag:", 404, "There is nothing at this address."),
        ("hold", "", 404, "There is nothing at this address."),
    ],
)
def test_what_makes_no_sense_is_refused_by_both_methods_and_changes_nothing(
    client: Client, stage: Scene, action: str, of: str, status: int, words: str
) -> None:
    before = list(stage.beside("control").find())
    asked = client.get(f"/vendors/{action}", params={"of": of})
    posted = client.post(f"/vendors/{action}", {"of": of})
    for answer in (asked, posted):
        assert answer.status_code == status
        assert words in answer.text
    assert list(stage.beside("control").find()) == before


# What it does -------------------------------------------------------------------------------------


def test_enable_makes_a_vendor_available(client: Client, stage: Scene) -> None:
    assert "ses is available now." in change(client, "enable", "vendor:ses")
    assert (stage.beside("vendors").find_one({"_id": "ses"}) or {})["unavailable_until"] is None


def test_drain_is_written_down_with_who_and_why_and_ends_again(
    client: Client, stage: Scene
) -> None:
    text = change(client, "drain", "vendor:smtp", reason="  they <b>bounce</b> all ")
    assert "vendor smtp is drained from now on." in text
    assert "smtp available drained drained by dashboard, now: they <b>bounce</b> all" in text
    stored = control_of(stage, "drain:smtp")
    assert (stored["active"], stored["reason"]) == (True, "they <b>bounce</b> all")
    assert "vendor smtp is not drained any more." in change(client, "undrain", "vendor:smtp")
    stored = control_of(stage, "drain:smtp")
    assert [entry["verb"] for entry in stored["history"]] == ["begin", "end"]


def test_release_has_what_waited_announced(client: Client, stage: Scene, config: Config) -> None:
    with closing(open_broker(config, keep=0)) as broker:
        before: Mapping[str, int] = broker.depth() or {}
        text = change(client, "release", "tag:newsletter")
        after: Mapping[str, int] = broker.depth() or {}
    assert "tag newsletter is not held any more. 60 e-mails went on." in text
    assert stage.emails.count_documents({"hold": "tag:newsletter"}) == 0
    assert after["ready"] - before["ready"] == 60


def test_hold_holds_a_vendor_a_class_or_all(client: Client, stage: Scene) -> None:
    for of in ("vendor:smtp", "priority:bulk", "all"):
        assert "held from now on" in change(client, "hold", of, reason="x" * 501)
        stored = control_of(stage, of)
        assert (stored["active"], stored["reason"]) == (True, "x" * 500)


def test_a_drain_of_a_vendor_that_is_configured_no_more_can_be_ended(
    client: Client, stage: Scene
) -> None:
    stage.control("drain", "postmark", stage.ago(days=40), "ann", "closed the account")
    assert "undrain?of=vendor%3Apostmark" in actions(client)
    change(client, "undrain", "vendor:postmark")
    assert control_of(stage, "drain:postmark")["active"] is False


def test_who_asked_is_the_name_of_the_key(
    shared_settings: Document, stage: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    key = Key.new("ann-at-night", "read", "operate")
    settings = {**shared_settings, "http": {"keys": [key.entry]}}
    headers = {"Sec-Fetch-Site": "same-origin"}
    with closing(Client(Config.from_mapping(settings), headers=headers)) as client:
        answer = client.post("/vendors/drain", {"of": "vendor:smtp"}, auth=("x", key.secret))
    assert answer.status_code == 303
    assert control_of(stage, "drain:smtp")["by"] == "ann-at-night"


def test_read_only_has_no_buttons_and_the_server_means_it(read_only: Client, stage: Scene) -> None:
    page = read_only.get("/vendors").text + read_only.get("/").text
    assert "mailgun-eu" in page
    assert "/vendors/" not in page
    assert "<form" not in page
    for answer in (
        read_only.get("/vendors/drain?of=vendor:smtp"),
        read_only.post("/vendors/drain", {"of": "vendor:smtp"}),
    ):
        assert answer.status_code == 403
    assert stage.beside("control").find_one({"_id": "drain:smtp"}) is None


def test_another_site_changes_nothing_nor_says_what_was_changed(
    client: Client, stage: Scene
) -> None:
    other = {"Sec-Fetch-Site": "cross-site"}
    answer = client.post("/vendors/drain", {"of": "vendor:smtp"}, headers=other)
    assert answer.status_code == 403
    assert stage.beside("control").find_one({"_id": "drain:smtp"}) is None
    page = client.get("/vendors?done=enable&of=vendor:ses", headers=other).text
    assert "is available now" not in page


# In a browser -------------------------------------------------------------------------------------


def press(browser: Chrome, name: str) -> None:
    """The link or button that a person sees, or hears, under this name."""
    links = browser.find_elements(By.CSS_SELECTOR, "main a.button, main button")
    link = next(link for link in links if link.accessible_name == name)
    with new_page(browser):
        link.click()


def notice(browser: Chrome) -> str:
    """What is said after a change."""
    return browser.find_element(By.CSS_SELECTOR, "[role=status]").text


def test_an_operator_drains_a_vendor_and_takes_it_back(
    site: HttpService, browser: Chrome, stage: Scene
) -> None:
    browser.get(f"{site.url}/dashboard/vendors")
    press(browser, "Drain smtp")
    heading = browser.find_element(By.TAG_NAME, "h1")
    assert heading.text == "Drain vendor smtp?"
    assert "200 queued e-mails" in browser.find_element(By.TAG_NAME, "main").text
    reason = browser.find_element(By.NAME, "reason")
    assert reason.accessible_name == "Why, for those who look later"
    reason.send_keys("it is slow")
    press(browser, "Drain vendor smtp")
    assert notice(browser) == "vendor smtp is drained from now on."
    assert control_of(stage, "drain:smtp")["reason"] == "it is slow"
    press(browser, "Undrain smtp")
    press(browser, "Undrain vendor smtp")
    assert notice(browser) == "vendor smtp is not drained any more. 0 e-mails went on."
    assert control_of(stage, "drain:smtp")["active"] is False


def test_an_operator_enables_a_vendor_or_leaves_it(
    site: HttpService, browser: Chrome, stage: Scene
) -> None:
    browser.get(f"{site.url}/dashboard/vendors")
    press(browser, "Enable ses")
    press(browser, "Leave it")
    assert browser.current_url == f"{site.url}/dashboard/vendors"
    press(browser, "Enable ses")
    press(browser, "Enable vendor ses")
    assert notice(browser) == "ses is available now."
    assert "unavailable" not in browser.find_element(By.TAG_NAME, "main").text


def test_an_operator_holds_a_vendor_and_releases_a_tag(
    site: HttpService, browser: Chrome, stage: Scene
) -> None:
    browser.get(f"{site.url}/dashboard/vendors")
    press(browser, "Hold smtp")
    press(browser, "Hold vendor smtp")
    assert notice(browser) == "vendor smtp is held from now on."
    assert control_of(stage, "vendor:smtp")["active"] is True
    press(browser, "Release tag newsletter")
    assert "60 e-mails go on at once" in browser.find_element(By.TAG_NAME, "main").text
    press(browser, "Release tag newsletter")
    assert notice(browser) == "tag newsletter is not held any more. 60 e-mails went on."
    assert control_of(stage, "tag:newsletter")["active"] is False

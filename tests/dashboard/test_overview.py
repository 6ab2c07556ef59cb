"""The page that says what is wrong, and whether anything is."""

from __future__ import annotations

import re
from contextlib import closing
from html import unescape

import pytest
from pymongo.collection import Collection
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from mailqueue.config import Config
from mailqueue.dashboard.plot import MINUTES, SERIES
from mailqueue.lifecycle.outcomes import PRIORITIES
from mailqueue.monitoring import overview
from mailqueue.monitoring.overview import Overview
from mailqueue.monitoring.situations import situations
from mailqueue.store import callbacks
from mailqueue.store.store import Store
from tests.conftest import Document
from tests.dashboard import scene
from tests.dashboard.conftest import Client
from tests.dashboard.scene import Scene
from tests.http_service import HttpService


@pytest.fixture(autouse=True)
def in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the process of ``site`` is."""
    monkeypatch.setenv("MAILQUEUE_ENV", "production")


def text_of(client: Client, place: str = "/") -> str:
    """What a person reads, in one line."""
    answer = client.get(place)
    assert answer.status_code == 200
    main = answer.text[answer.text.index("<h1") :]
    main = re.sub(r"</?(a|code|q|span|strong|time)\b[^>]*>", "", main)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", main)).split())


def test_where_all_is_well_it_says_so_first_and_what_was_looked_at(
    client: Client, emails: Collection[Document]
) -> None:
    scene.healthy(emails)
    page = client.get("/").text
    assert "<title>All is well" in page
    assert "<h1>All is well</h1>" in page
    assert 'class="findings"' not in page
    text = text_of(client)
    assert re.search(r"Looked at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, production", text)
    assert "Consumers, e-mails that are due" in text


def test_it_says_what_doctor_says_the_worst_first(
    client: Client, emails: Collection[Document], config: Config
) -> None:
    scene.trouble(emails)
    store = Store(config.mongodb, env="production", callbacks=config.callbacks)
    findings = list(situations(Overview.read(config, store), config))
    store.close()
    page, text = client.get("/").text, text_of(client)
    fails = sum(finding.level == "FAIL" for finding in findings)
    assert fails >= 4
    assert f"<title>{fails} things are wrong" in page
    for finding in findings:
        if "due for too long" not in finding.text:  # it goes on
            assert f"{finding.level} {finding.check}: {finding.text} {finding.todo}" in text
        assert finding.link in text
    levels = re.findall(r"(FAIL|WARN) [\w-]+: ", text)
    assert levels == sorted(levels)
    assert set(levels) == {"FAIL", "WARN"}


def test_a_warning_alone_is_no_alarm(client: Client, emails: Collection[Document]) -> None:
    healthy = scene.healthy(emails)
    healthy.control("tag", "news", healthy.ago(minutes=3), "ann", "wrong price")
    page = client.get("/").text
    assert "<h1>1 warning</h1>" in page
    assert 'class="verdict warn"' in page


def test_each_number_leads_to_the_e_mails_that_it_counts(
    client: Client, emails: Collection[Document]
) -> None:
    scene.trouble(emails)
    page = client.get("/").text
    for status, number in {"queued": 200, "sent": 31, "failed": 7, "uncertain": 3}.items():
        assert f'href="/dashboard/emails?status={status}">{number}</a>' in page
    oldest = emails.find_one(
        {"status": "queued", "priority": PRIORITIES["high"]}, sort=[("created_at", 1)]
    )
    assert oldest is not None
    assert f'href="/dashboard/emails/{oldest["_id"]}">for 21 min</a>' in page


def test_a_number_that_was_not_counted_to_its_end_is_called_so(
    client: Client, emails: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.healthy(emails)
    monkeypatch.setattr(overview, "COUNTED", 7)
    assert "queued about 7 " in text_of(client)


def test_vendors_are_shown_with_their_state_and_why(
    client: Client, emails: Collection[Document]
) -> None:
    scene.trouble(emails)
    text = text_of(client)
    assert "ses unavailable misconfigured 403, 2 h ago the next e-mail tries it in" in text
    assert "mailgun-eu available drained drained by ann, 3 h ago: bounces rise" in text
    assert "within its rate 97,310 of 100,000 a day begins anew in" in text
    assert re.search(r"tries it in 6 min no limits \d+ accepted 7\d failed", text)


def test_a_vendor_whose_budget_is_used_up_says_when_the_next_e_mail_goes(
    client: Client, emails: Collection[Document]
) -> None:
    healthy = scene.healthy(emails)
    healthy.used("mailgun-eu", 100_000)
    text = text_of(client)
    assert re.search(r"the next e-mail goes in \d+ (h|min|s) 100,000 of 100,000 a day", text)


def test_consumers_are_shown_or_how_to_start_one(
    client: Client, emails: Collection[Document]
) -> None:
    stage = Scene(emails)
    assert "Start one: python -m mailqueue.consumer" in text_of(client)
    stage.heartbeat("mail-1", 12, seconds=5)
    stage.heartbeat("mail-2", 3, seconds=70)
    text = text_of(client)
    assert re.search(r"mail-1:4711 0\.1\.0 12 \d+ s ago", text)
    assert "mail-2" not in text


def test_holds_and_drains_are_shown_with_who_and_why(
    client: Client, emails: Collection[Document]
) -> None:
    scene.trouble(emails)
    text = text_of(client)
    assert "tag newsletter held by bob, 1 d ago: wrong price in the lead 60 Release" in text
    assert "vendor mailgun-eu drained by ann" in text


def test_a_queue_that_is_away_hides_nothing_else(
    shared_settings: Document, emails: Collection[Document]
) -> None:
    scene.healthy(emails)
    away = {"beanstalkd": {**shared_settings["beanstalkd"], "servers": ["127.0.0.1:1"]}}
    with closing(Client(Config.from_mapping(shared_settings | away))) as client:
        text = text_of(client)
    assert "1 thing is wrong" in text
    assert "Queue not reached" in text
    assert "sent 41" in text


def test_without_a_queue_it_says_how_consumers_find_what_is_due(
    shared_settings: Document, emails: Collection[Document]
) -> None:
    settings = {name: value for name, value in shared_settings.items() if name != "beanstalkd"}
    config = Config.from_mapping(settings | {"queue": {"type": "mongodb"}})
    with closing(Client(config)) as client:
        assert "None: consumers look in MongoDB for what is due" in text_of(client)


def test_callbacks_are_shown_where_a_responder_runs(
    client: Client, emails: Collection[Document]
) -> None:
    assert "Callbacks" not in text_of(client)
    name = emails.create_index([(field, 1) for field in callbacks.INDEX])
    stage = Scene(emails)
    due = [{"id": "1", "state": "due", "due_at": stage.ago(seconds=5)}]
    stage.sent(stage.ago(minutes=1), "ses", callbacks=due)
    stage.write()
    assert "Callbacks due 1" in text_of(client)
    emails.drop_index(name)


def test_it_loads_itself_anew_only_where_that_was_asked_for(client: Client) -> None:
    """Who reads with a screen reader, or reads slowly, would lose the place (WCAG 2.2.1)."""
    page = client.get("/").text
    assert 'http-equiv="refresh"' not in page
    assert 'href="/dashboard/?refresh=on"' in page
    page = client.get("/?refresh=on").text
    assert '<meta http-equiv="refresh" content="30">' in page
    assert '<a href="/dashboard/">Stop that</a>' in page


HEIGHTS = """
return Object.fromEntries([...document.querySelectorAll('svg[role=img] .series')].map(series => [
  series.classList[1], [...series.children].map(bar => bar.getBoundingClientRect().height)
]))
"""

# The plot -----------------------------------------------------------------------------------------


def test_the_plot_has_a_bar_for_each_minute_and_series(
    site: HttpService, browser: Chrome, emails: Collection[Document]
) -> None:
    stage = Scene(emails)
    stage.minute(5, "ses", accepted=30, unavailable=10)
    stage.minute(5, "smtp", accepted=10)
    stage.minute(20, "ses", accepted=20)
    stage.write()
    browser.get(f"{site.url}/dashboard/")
    heights: dict[str, list[float]] = browser.execute_script(HEIGHTS)
    assert {n: len(each) for n, each in heights.items()} == dict.fromkeys(SERIES, MINUTES)
    # Sorted, since a minute may have begun.
    seen = {n: sorted(round(h) for h in each if h) for n, each in heights.items()}
    assert seen == {"accepted": [53, 107], "failed": [27]}
    levels = browser.find_elements(By.CSS_SELECTOR, "svg[role=img] .levels text")
    assert [level.text for level in levels] == ["0", "20", "40", "60"]


def test_the_plot_can_be_read_without_seeing_it(
    site: HttpService, browser: Chrome, emails: Collection[Document]
) -> None:
    stage = Scene(emails)
    stage.minute(5, "ses", accepted=1234, rejected=2)
    stage.write()
    browser.get(f"{site.url}/dashboard/")
    plot = browser.find_element(By.CSS_SELECTOR, "svg[role=img]")
    names = (plot.get_dom_attribute("aria-labelledby") or "").split()
    title, text = (browser.find_element(By.ID, n).get_attribute("textContent") for n in names)
    assert title == "Attempts per minute in the last hour"
    assert text is not None
    assert text.startswith("In all 1,234 accepted and 2 failed. Most, 1,236, at ")
    browser.find_element(By.CSS_SELECTOR, ".plot summary").click()
    row = browser.find_element(By.CSS_SELECTOR, ".plot tbody tr")
    assert row.text.split()[1:] == ["1,234", "2"]
    tip = plot.find_elements(By.CSS_SELECTOR, ".minutes title")
    assert "1,234 accepted, 2 failed" in "".join(t.get_attribute("textContent") or "" for t in tip)


def test_without_an_attempt_it_says_so_instead_of_an_empty_plot(client: Client) -> None:
    assert "No e-mail was sent within the last hour." in text_of(client)
    assert "<svg" not in client.get("/").text

"""The pages in a real browser: what a person does with them, and what stored code cannot do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo.collection import Collection
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from mailqueue.consumer import Consumer
from tests.conftest import Document
from tests.dashboard.conftest import new_page, show_as
from tests.dashboard.stored import CONTENT, SECRETS, email, failed, store, uncertain
from tests.dashboard.test_markup import CORPUS
from tests.http_service import HttpService, Key
from tests.stage import DOWN, Stage
from tests.vendor_servers import HttpServer, Reply


def press(browser: Chrome, label: str) -> None:
    """The button or link that says so."""
    words = f"[starts-with(normalize-space(), '{label}')]"
    with new_page(browser):
        browser.find_element(By.XPATH, f"//button{words} | //a{words}").click()


def heading(browser: Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "h1").text


def rows(browser: Chrome) -> list[str]:
    return [each.text for each in browser.find_elements(By.CSS_SELECTOR, "tbody a.id")]


@pytest.fixture
def tracker() -> Iterator[HttpServer]:
    """A server of somebody who wants to know that an e-mail was opened."""
    with HttpServer(Reply(200)) as server:
        yield server


def test_some_failed_e_mails_are_retried(
    site: HttpService, browser: Chrome, emails: Collection[Document]
) -> None:
    ids = store(emails, failed(3), failed(2), failed(1))
    browser.get(f"{site.url}/dashboard/")
    press(browser, "Failed")
    assert rows(browser) == [str(each) for each in reversed(ids)]
    for email_id in ids[:2]:
        browser.find_element(By.CSS_SELECTOR, f"input[value='{email_id}']").click()
    press(browser, "Retry")
    assert heading(browser) == "Retry 2 e-mails?"
    press(browser, "Retry 2 e-mails")
    assert heading(browser) == "Retry: done"
    assert "2 e-mails were changed" in browser.find_element(By.TAG_NAME, "main").text
    browser.refresh()
    assert "2 e-mails were changed" in browser.find_element(By.TAG_NAME, "main").text
    press(browser, "Back to the list")
    assert rows(browser) == [str(ids[2])]
    queued = emails.find({"status": "queued"})
    assert [len(each["interventions"]) for each in queued] == [1, 1]


def test_all_uncertain_e_mails_of_a_tag_are_marked_as_sent(
    site: HttpService, browser: Chrome, emails: Collection[Document]
) -> None:
    store(emails, *[uncertain(tags=["news"]) for _ in range(3)], uncertain())
    browser.get(f"{site.url}/dashboard/uncertain")
    with new_page(browser):
        browser.find_element(By.NAME, "tag").send_keys("news", Keys.ENTER)
    assert len(rows(browser)) == 3
    browser.find_element(By.XPATH, "//label[contains(., 'all 3 that match')]").click()
    press(browser, "Mark as sent")
    assert heading(browser) == "Mark 3 e-mails as sent?"
    press(browser, "Mark 3 e-mails")
    assert emails.count_documents({"reason": "marked_sent"}) == 3
    press(browser, "Back to the list")
    assert browser.find_element(By.NAME, "tag").get_attribute("value") == "news"
    assert "No e-mail matches" in browser.find_element(By.TAG_NAME, "main").text


def test_a_queued_e_mail_is_cancelled_from_its_own_page(
    site: HttpService, browser: Chrome, emails: Collection[Document]
) -> None:
    (email_id,) = store(emails, email())
    browser.get(f"{site.url}/dashboard/emails")
    press(browser, str(email_id))
    press(browser, "Cancel")
    press(browser, "Back, and change nothing")
    press(browser, "Cancel")
    press(browser, "Cancel 1 e-mail")
    assert "1 e-mail was changed" in browser.find_element(By.TAG_NAME, "main").text
    assert emails.count_documents({"status": "cancelled"}) == 1


def test_an_e_mail_that_failed_over_tells_its_story(
    site: HttpService,
    browser: Chrome,
    emails: Collection[Document],
    shared_settings: Document,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a real one: a real consumer, and a vendor that does not work."""
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    with Stage(shared_settings) as stage:
        stage.vendor("first", DOWN)
        stage.vendor("second")
        stage.send(2)  # one of them is for the first vendor
        assert Consumer(stage.config, burst=True).run() == 0
    story = emails.find_one({"attempts.n": 2})
    assert story is not None
    browser.get(f"{site.url}/dashboard/emails")
    browser.find_element(By.LINK_TEXT, str(story["_id"])).click()
    lines = browser.find_element(By.CLASS_NAME, "timeline").text
    steps = ["handed it in", "Attempt 1 at first", "first did not work (503)"]
    steps += ["Attempt 2 at second", "second accepted it"]
    places = [lines.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    outcomes = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "td .badge")]
    assert outcomes == ["unavailable", "accepted"]


def test_a_list_is_filtered_and_paged(
    site: HttpService, browser: Chrome, emails: Collection[Document]
) -> None:
    store(emails, *[failed(minutes) for minutes in range(60)], email())
    browser.get(f"{site.url}/dashboard/emails")
    Select(browser.find_element(By.NAME, "status")).select_by_visible_text("failed")
    press(browser, "Filter")
    first = rows(browser)
    press(browser, "Older")
    assert len(rows(browser)) == 10
    press(browser, "← Newer")
    assert rows(browser) == first
    press(browser, "Clear")
    assert len(rows(browser)) == 50


def test_the_keyboard_is_enough(
    site: HttpService, browser: Chrome, emails: Collection[Document]
) -> None:
    (email_id,) = store(emails, failed())
    browser.get(f"{site.url}/dashboard/failed")
    tab(browser)
    assert focused(browser) == "Skip to content"
    type_(browser, Keys.ENTER)
    while focused(browser) != f"Choose {email_id}":
        tab(browser)
    type_(browser, Keys.SPACE)
    while not focused(browser).startswith("Mark as sent"):
        tab(browser)
    with new_page(browser):
        type_(browser, Keys.ENTER)
    while focused(browser) != "Mark 1 e-mail as sent":
        tab(browser)
    with new_page(browser):
        type_(browser, Keys.ENTER)
    assert heading(browser) == "Mark as sent: done"
    assert emails.count_documents({"status": "sent"}) == 1


def tab(browser: Chrome) -> None:
    type_(browser, Keys.TAB)
    outline = browser.switch_to.active_element.value_of_css_property("outline-style")
    assert outline == "solid"  # where the focus is, is seen


def type_(browser: Chrome, key: str) -> None:
    browser.switch_to.active_element.send_keys(key)


def focused(browser: Chrome) -> str:
    element = browser.switch_to.active_element
    return element.get_attribute("aria-label") or element.text


BODY = """
    <head><base href="{0}/"><meta http-equiv="refresh" content="0;url={0}/refresh">
    <link rel="stylesheet" href="{0}/style"><link rel="preload" as="image" href="{0}/preload">
    <link rel="prefetch" href="{0}/prefetch"><LINK rel="preconnect" href="{0}">
    <link/rel="dns-prefetch" href="{0}"><link rel="icon" href="{0}/icon">
    <style>@import url({0}/import); body {{ background: url({0}/background) }}
    @font-face {{ font-family: f; src: url({0}/font) }} p {{ font-family: f }}</style></head>
    <p>Hello</p><script>document.body.textContent = "ran"; fetch("{0}/script")</script>
    <img src="{0}/image" srcset="{0}/set 2x"><video src="{0}/video" autoplay></video>
    <iframe src="{0}/frame"></iframe><object data="{0}/object"></object>
    <embed src="{0}/embed"><audio src="{0}/audio" autoplay></audio>
    <svg><image href="{0}/svg"/></svg><input type="image" src="{0}/input">
    <form action="{0}/form"><button autofocus>Pay</button></form>
    <a
    href="{0}/link" ping="{0}/ping" target="_top">a link</a>
    <body onload="location='{0}/onload'">
"""


def test_a_body_of_html_runs_nothing_and_loads_nothing(
    site: HttpService, browser: Chrome, emails: Collection[Document], tracker: HttpServer
) -> None:
    """Not even a connection is made, as browsers do for what may be wanted soon."""
    (email_id,) = store(emails, email(content={**CONTENT, "html": BODY.format(tracker.url)}))
    browser.get(f"{site.url}/dashboard/emails/{email_id}")
    press(browser, "Show")
    place = browser.current_url
    # It stands below the story: the page begins there, or nobody would see that it has come.
    assert place.endswith("#content-shown")
    assert browser.find_element(By.ID, "content-shown").is_displayed()
    browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))
    assert "Hello" in browser.find_element(By.TAG_NAME, "body").text
    browser.find_element(By.TAG_NAME, "button").click()
    browser.find_element(By.XPATH, "//*[text()='a link']").click()
    browser.switch_to.default_content()
    assert browser.current_url == place
    # Also by itself: what a person opens in a tab of its own has no more rights.
    browser.get(f"{site.url}/dashboard/emails/{email_id}/html")
    assert "Hello" in browser.find_element(By.TAG_NAME, "body").text
    with HttpServer(Reply(200)) as other:  # until this was asked, the browser had time
        browser.get(other.url)
        assert other.requests
    assert (tracker.connections, tracker.requests) == (0, [])


def test_stored_code_does_not_run(
    site: HttpService, browser: Chrome, emails: Collection[Document]
) -> None:
    content = {**CONTENT, "text": "\n".join(CORPUS)}
    document = failed(content=content, request_id="".join(CORPUS))
    document["email"]["tags"] = CORPUS
    (email_id,) = store(emails, document)
    browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument",
        {"source": "window.ran = 0; window.xss = () => { window.ran += 1 }"},
    )
    for place in ("emails", "failed", f"emails/{email_id}", f"emails/{email_id}/content"):
        browser.get(f"{site.url}/dashboard/{place}")
        assert browser.execute_script("return window.ran") == 0
        assert browser.execute_script("return document.scripts.length") == 0
        assert "xss()" in browser.find_element(By.TAG_NAME, "main").text


def outer_address() -> str:
    """An address of this host that is not loopback's, if it has one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def test_who_has_a_key_sees_and_acts_also_over_plain_http(
    browser: Chrome, emails: Collection[Document], shared_settings: Document, tmp_path: Path
) -> None:
    """From elsewhere, where browsers send no Sec-Fetch-Site without TLS."""
    (email_id,) = store(emails, failed())
    key = Key.new("ann", "read", "operate")
    settings = {**shared_settings, "http": {"keys": [key.entry], "host": "0.0.0.0"}}
    address = outer_address()
    with HttpService(settings, tmp_path, "--dashboard") as own:
        browser.get(f"http://any:{key.secret}@{address}:{own.port}/dashboard/emails/{email_id}")
        press(browser, "Show")
        assert SECRETS[0] in browser.find_element(By.TAG_NAME, "main").text
        browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))
        assert "A secret body" in browser.find_element(By.TAG_NAME, "body").text
        browser.switch_to.default_content()
        press(browser, "Retry")
        press(browser, "Retry 1 e-mail")
        assert heading(browser) == "Retry: done"
    (document,) = emails.find()
    assert [each["by"] for each in document["interventions"]] == ["ann"]


def test_no_other_page_frames_it(site: HttpService, browser: Chrome, tracker: HttpServer) -> None:
    frame = f'<iframe src="{site.url}/dashboard/emails"></iframe>'.encode()
    tracker.behaviour = Reply(200, {"Content-Type": "text/html"}, frame)
    browser.get(tracker.url)
    browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))
    assert "E-mails" not in browser.find_element(By.TAG_NAME, "body").text
    browser.switch_to.default_content()


def test_another_sites_form_changes_nothing(
    site: HttpService, browser: Chrome, emails: Collection[Document], tracker: HttpServer
) -> None:
    (email_id,) = store(emails, failed())
    fields = f'<input name="verb" value="retry"><input name="id" value="{email_id}">'
    place = f"{site.url}/dashboard/act"
    form = f'<form method="post" action="{place}">{fields}<button>Go</button></form>'
    tracker.behaviour = Reply(200, {"Content-Type": "text/html"}, form.encode())
    browser.get(tracker.url.replace("127.0.0.1", "localhost"))
    press(browser, "Go")
    assert heading(browser) == "Not from here"
    assert emails.count_documents({"status": "failed"}) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(
    site: HttpService, browser: Chrome, emails: Collection[Document], scheme: str
) -> None:
    (email_id, _) = store(emails, failed(tags=["x" * 60]), uncertain())
    show_as(browser, 390, 800, scheme)
    for place in (
        *("emails", "failed", "uncertain", f"emails/{email_id}", f"emails/{email_id}/content"),
        *("confirm?verb=retry&which=all&status=failed", "emails?to=x", "nothing"),
    ):
        browser.get(f"{site.url}/dashboard/{place}")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert (place, width) == (place, 390)
        assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
        unlabelled = browser.execute_script(
            "return [...document.querySelectorAll('input:not([type=hidden]),select')]"
            ".filter(e => !e.labels.length && !e.ariaLabel).length"
        )
        assert unlabelled == 0

"""The frame of all pages: who is let in, which requests are refused, what every answer says."""

from __future__ import annotations

from selenium.webdriver import Chrome

from tests.dashboard.conftest import Client
from tests.http_service import HttpService


def test_the_address_of_the_service_leads_to_the_dashboard(client: Client) -> None:
    for place in ("//", ""):
        answer = client.get(place)
        assert (answer.status_code, answer.headers["location"]) == (307, "/dashboard/")
    assert client.get("/", follow_redirects=True).status_code == 200


def test_a_browser_shows_the_pages(site: HttpService, browser: Chrome) -> None:
    browser.get(f"{site.url}/dashboard/emails")
    assert browser.title == "E-mails - mailqueue"

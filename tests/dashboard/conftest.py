"""The dashboard: by a client inside this process, and in a real browser against a real process.

``client`` speaks to the application itself, on the servers of the test run. ``browser`` is one
chromium for all tests of a worker, with a fresh profile; ``site`` is ``mailqueue http --dashboard``
as a child process, one for all tests too. Each test finds the collection empty.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from starlette.applications import Starlette
from starlette.routing import Mount

from mailqueue.config import Config
from mailqueue.devserver import Beanstalkd, Mongod
from mailqueue.http.application import App
from tests.conftest import Document, new_settings
from tests.dashboard.scene import VENDORS
from tests.http_service import HttpService
from tests.waiting import wait_until

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BASE = "http://127.0.0.1:8080"
OWN = {"Sec-Fetch-Site": "same-origin"}  # as a browser says of a form on our own page


@pytest.fixture(scope="session")
def shared_settings(mongod: Mongod, beanstalkd: Beanstalkd) -> Document:
    """Of all dashboards here; not to be changed."""
    return new_settings(mongod, beanstalkd) | {"vendors": VENDORS}


@pytest.fixture
def config(shared_settings: Document) -> Config:
    return Config.from_mapping(shared_settings)


@pytest.fixture
def emails(config: Config, mongo_client: MongoClient[Document]) -> Collection[Document]:
    """The collection that all dashboards here show, empty, as are those beside it."""
    database = mongo_client[config.mongodb.database]
    for name in database.list_collection_names():
        database[name].delete_many({})
    return database[config.mongodb.collection]


class Client:
    """A browser of this host, or of ``address``, that asks the application itself.

    Redirects are shown, not followed. ``headers``: with every request. ``under``: where
    another application has it.
    """

    def __init__(
        self,
        config: Config,
        address: str = "127.0.0.1",
        headers: Mapping[str, str] = OWN,
        under: str = "",
    ) -> None:
        self.app = App(config, dashboard=True)
        outer = Starlette(routes=[Mount(under, self.app)]) if under else self.app
        self._transport = httpx.ASGITransport(outer, client=(address, 50_000))
        self._headers = headers

    def ask(self, method: str, place: str, **options: Any) -> httpx.Response:
        """One request; ``place`` is below the dashboard's, or begins with two slashes."""
        path = place[1:] if place.startswith("//") else f"/dashboard{place}"

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self._transport, base_url=BASE, headers=self._headers
            ) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, place: str, **options: Any) -> httpx.Response:
        return self.ask("GET", place, **options)

    def post(self, place: str, form: Mapping[str, Any], **options: Any) -> httpx.Response:
        return self.ask("POST", place, data=form, **options)

    def close(self) -> None:
        assert self.app.dashboard is not None
        self.app.dashboard.close()


@pytest.fixture
def client(config: Config, emails: Collection[Document]) -> Iterator[Client]:
    """The application without authentication, as a browser on this host sees it."""
    with closing(Client(config)) as client:
        yield client


@pytest.fixture(scope="session")
def shared_site(
    shared_settings: Document, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpService]:
    folder = tmp_path_factory.mktemp("dashboard")
    with HttpService(shared_settings, folder, "--dashboard") as running:
        yield running


@pytest.fixture
def site(shared_site: HttpService, emails: Collection[Document]) -> HttpService:
    """The dashboard as a process; nothing is stored yet. ``site.url`` is where it listens."""
    return shared_site


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if None in (shutil.which("chromedriver"), shutil.which("chromium")):
        message = "chromium and chromedriver are missing"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    with open_chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@contextmanager
def open_chromium(profile: Path) -> Iterator[Chrome]:
    """A browser without a window, that keeps what it must keep in this folder."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "hide-scrollbars", "disable-dev-shm-usage"),
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{argument}")
    browser = Chrome(options, Service(shutil.which("chromedriver"), log_output=os.devnull))
    try:
        browser.set_page_load_timeout(60)
        yield browser
    finally:
        browser.quit()


@pytest.fixture
def browser(chromium: Chrome) -> Chrome:
    """A browser with an empty page, 1280 pixels wide, light, without cookies."""
    show_as(chromium, 1280)
    chromium.get("about:blank")
    return chromium


@contextmanager
def new_page(browser: Chrome) -> Iterator[None]:
    """Wait for the page that what is done inside leads to: a click may return before it is there.

    It has another document; while the browser is between two, it has none.
    """
    before = browser.execute_script("return performance.timeOrigin")
    yield
    loaded = "return document.readyState === 'complete' && performance.timeOrigin"
    wait_until(
        lambda: browser.execute_script(loaded) not in {False, before}, what="another page is there"
    )


def show_as(browser: Chrome, width: int, height: int = 900, scheme: str = "light") -> None:
    """Show pages so wide, in this colour scheme (``light`` or ``dark``)."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def screenshot(browser: Chrome, file: Path, height: int | None = None) -> None:
    """The page as a PNG, so high, or all of it: also what one has to scroll to."""
    size = "return [window.innerWidth, document.documentElement.scrollHeight]"
    width, whole = browser.execute_script(size)
    clip = {"x": 0, "y": 0, "width": width, "height": height or whole, "scale": 1}
    options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    answer = browser.execute_cdp_cmd("Page.captureScreenshot", options)
    file.write_bytes(base64.b64decode(answer["data"]))

"""The screenshots in docs/, made anew: python -m tests.dashboard.screenshots [--all] [FOLDER]

``--all`` makes every view at both widths and in both schemes, to look at (into FOLDER). The pages
are those of ``scene``, on servers of this command's own. What they show of the time is one night in
2026, whenever this runs.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import uvicorn
from jinja2 import pass_context
from PIL import Image
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.dashboard import rendering
from mailqueue.devserver import devservers
from mailqueue.http.application import App
from mailqueue.service import listen
from tests.conftest import Document
from tests.dashboard import scene
from tests.dashboard.conftest import open_chromium, screenshot, show_as
from tests.dashboard.scene import Scene

if TYPE_CHECKING:
    from jinja2.runtime import Context
    from selenium.webdriver import Chrome

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
NIGHT = datetime(2026, 3, 1, 3, 12, 40, tzinfo=UTC)  # when all screenshots were taken
COLOURS = 256  # of a file
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")


@dataclass(frozen=True)
class View:
    """A page of a scene. ``place``: its address below the dashboard's, or what finds it."""

    name: str
    scene: Callable[[Collection[Document]], Scene]
    place: str | Callable[[Scene], str]
    height: int | None = None  # pixels; None: all of the page
    width: int = 1280
    scheme: str = "light"

    @property
    def file(self) -> str:
        """Its name under ``FOLDER``."""
        narrow = "" if self.width == WIDTHS[0] else "-phone"
        return f"{self.name}{narrow}{'' if self.scheme == SCHEMES[0] else '-dark'}.png"


def failed_over(stage: Scene) -> str:
    """The e-mail that one vendor refused and another one took."""
    document = stage.emails.find_one({"status": "sent", "attempts.outcome": "unavailable"})
    assert document is not None
    return f"/emails/{document['_id']}"


VIEWS = (
    View("overview", scene.healthy, "/", 850),
    View("overview", scene.healthy, "/", 1000, width=390, scheme="dark"),
    View("trouble", scene.trouble, "/"),
    View("emails", scene.trouble, "/emails", 900),
    View("failed-over", scene.healthy, failed_over),
    View("vendors", scene.trouble, "/vendors", 660, scheme="dark"),
    View("confirmation", scene.trouble, "/vendors/drain?of=vendor:smtp", 420),
)
"""Those that the documentation shows."""


def variants() -> list[View]:
    """Every view in every width and scheme."""
    first = {view.name: view for view in VIEWS}
    return [
        replace(view, width=width, scheme=scheme)
        for view, width, scheme in product(first.values(), WIDTHS, SCHEMES)
    ]


@contextmanager
def dashboard(config: Config) -> Iterator[str]:
    """The pages, from this process; their address."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(App(config, dashboard=True), log_config=None))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/dashboard"
    finally:
        server.should_exit = True
        thread.join()


class Clock:
    """Has pages show the times of ``NIGHT``, which begins anew with each scene."""

    def __init__(self) -> None:
        exact, clock = rendering.exact, rendering.clock
        self.restart()

        @pass_context
        def at_night(context: Context, at: datetime) -> str:
            now = {"now": context["now"] + self._offset}
            return clock(cast("Context", now), at + self._offset)

        rendering.exact = lambda at: exact(at + self._offset)
        rendering.clock = at_night

    def restart(self) -> None:
        self._offset = NIGHT - datetime.now(UTC)


def take(browser: Chrome, view: View, emails: Collection[Document], url: str, file: Path) -> None:
    """One screenshot. The scene is new for each: its times count from now."""
    for name in emails.database.list_collection_names():
        emails.database[name].delete_many({})
    stage = view.scene(emails)
    place = view.place if isinstance(view.place, str) else view.place(stage)
    show_as(browser, view.width, scheme=view.scheme)
    browser.get(url + place)
    screenshot(browser, file, view.height)
    with Image.open(file) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.dashboard.screenshots")
    parser.add_argument("--all", action="store_true", help="every view, at all widths and schemes")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, metavar="FOLDER")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["MAILQUEUE_ENV"] = "production"
    clock = Clock()
    with ExitStack() as stack:
        servers = stack.enter_context(devservers())
        config = Config.from_mapping({**servers.config, "vendors": scene.VENDORS})
        client: MongoClient[Document] = stack.enter_context(MongoClient(servers.mongod.uri))
        emails = client[config.mongodb.database][config.mongodb.collection]
        profile = Path(stack.enter_context(TemporaryDirectory()))
        browser = stack.enter_context(open_chromium(profile))
        url = stack.enter_context(dashboard(config))
        for view in variants() if options.all else VIEWS:
            clock.restart()
            take(browser, view, emails, url, options.folder / view.file)


if __name__ == "__main__":
    main()

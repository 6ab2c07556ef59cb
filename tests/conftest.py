"""Servers of the tests' own, and names that cannot be anybody's real data.

``mongod`` and ``beanstalkd`` are started once per run, on free ports with a temporary data folder,
and where pytest-xdist shares the tests out, once per worker: a command that mongod was told to fail
fails for all of its clients, and beanstalkd counts the jobs of all tubes together;
a test that stops, pauses or breaks a server takes ``servers_to_break``, a pair of its own. Where a
server is missing, the tests that need it are skipped; with ``CI`` set they fail.

``config`` leads to a database and a tube that only this test uses; the database is dropped after
it. All names begin with ``TEST_PREFIX``, and nothing is touched whose name does not.
"""

from __future__ import annotations

import gc
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

import mailqueue
from mailqueue.config import Config
from mailqueue.devserver import Beanstalkd, Mongod
from mailqueue.devserver.process import ServerNotFound
from tests.servers import BreakableMongod, BreakableServers, breakable_servers

if TYPE_CHECKING:
    from tests.stage import Stage

pytest_plugins = ["pytest_mailqueue"]  # by its entry point too, where we are installed anew

TEST_PREFIX = "mailqueue_test_"
TESTS = Path(__file__).parent
UNIT = TESTS / "unit"
# They run again and again what other tests run too; measuring that would double their time.
UNMEASURED = (
    *("faults", "model", "contract/test_fuzz.py", "contract/test_wire_fuzz.py"),
    *("brokers/test_crashes.py", "brokers/test_outages.py", "integration/test_docs_code.py"),
    *("integration/test_load_test.py", "process/test_fastapi_app.py", "process/test_intake.py"),
    *("process/test_processes.py", "process/test_quickstart.py", "process/test_rates.py"),
    *("process/test_smtp_load.py", "process/test_control.py", "process/test_logs.py"),
    *("process/test_memory.py", "process/test_staging.py", "process/test_stopping.py"),
    *("process/test_tracing.py", "monitoring", "structure", "security/test_hostile.py"),
    *("http/test_description.py", "http/test_wire_fuzz.py", "integration/test_damage.py"),
    *("integration/test_interrupted.py",),
)
SERVERS = {"mongod", "beanstalkd", "servers_to_break"}

Running = TypeVar("Running")
Document = dict[str, Any]


def pytest_configure() -> None:
    """Let Ctrl-C reach the tests' children, also where a shell started us in the background.

    There SIGINT is ignored, children inherit that, and a shell among them could not even trap it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """What is collected stays to the end: the garbage collector need not look through it.

    Nor while it grows. Nor need coverage look on: measured, collecting takes twice its time.
    """
    gc.disable()
    try:
        with _unmeasured(session.config):
            return (yield)
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _unmeasured(config: pytest.Config) -> Iterator[None]:
    """Without coverage, but for what the package runs when it is imported."""
    plugin = config.pluginmanager.getplugin("_cov")
    controller = plugin and plugin.cov_controller
    if not (controller and controller.started):
        yield
        return
    for module in pkgutil.walk_packages(mailqueue.__path__, "mailqueue."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    controller.pause()
    try:
        yield
    finally:
        controller.resume()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Where no test draws examples, do without hypothesis, which is slow to import."""
    _do_without_hypothesis(session.config)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """The same where pytest-xdist's workers collect and draw: this process only reports."""
    _do_without_hypothesis(session.config)


def _do_without_hypothesis(config: pytest.Config) -> None:
    """Its plugin would import it at the end, only to say that it was not used.

    And what else is installed may warn then, which is an error and would end the run.
    """
    plugins = config.pluginmanager
    if "hypothesis" not in sys.modules and plugins.hasplugin("hypothesispytest"):
        plugins.unregister(name="hypothesispytest")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where coverage is measured, measure it only in tests that may add to it."""
    if not config.pluginmanager.hasplugin("_cov"):
        return
    for item in items:
        if not _adds_coverage(item.path):
            item.add_marker("no_cover")


@cache
def _adds_coverage(path: Path) -> bool:
    return not any(path.is_relative_to(TESTS / each) for each in UNMEASURED)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that is not measured has no child processes that are: they take coverage's word."""
    word = None
    if item.get_closest_marker("no_cover"):
        word = os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    try:
        return (yield)
    finally:
        if word is not None:
            os.environ["COVERAGE_PROCESS_CONFIG"] = word


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = SERVERS.intersection(getattr(item, "fixturenames", ()))
    if needed and UNIT in item.path.parents:
        pytest.fail(f"tests/unit is pure: {sorted(needed)} belong in tests/integration")


@contextmanager
def _running(start: AbstractContextManager[Running]) -> Iterator[Running]:
    with ExitStack() as stack:
        try:
            running = stack.enter_context(start)
        except ServerNotFound as missing:
            if os.environ.get("CI"):
                pytest.fail(str(missing), pytrace=False)
            pytest.skip(str(missing))
        yield running


@pytest.fixture(scope="session")
def mongod() -> Iterator[Mongod]:
    with _running(BreakableMongod()) as server:
        yield server


@pytest.fixture(scope="session")
def beanstalkd() -> Iterator[Beanstalkd]:
    with _running(Beanstalkd()) as server:
        yield server


@pytest.fixture
def servers_to_break() -> Iterator[BreakableServers]:
    """Both servers for one test, to be stopped, paused, killed and restarted."""
    with _running(breakable_servers()) as servers:
        yield servers


@pytest.fixture(scope="session")
def mongo_client(mongod: Mongod) -> Iterator[MongoClient[Document]]:
    """For looking at what the code under test has written."""
    client: MongoClient[Document]
    with MongoClient(mongod.uri, tz_aware=True) as client:
        yield client


def new_settings(mongod: Mongod, beanstalkd: Beanstalkd) -> Document:
    """A configuration of names that nobody else uses."""
    unique = TEST_PREFIX + uuid4().hex
    return {
        "mongodb": {
            "uri": mongod.uri,
            "database": unique,
            "collection": TEST_PREFIX + "emails",
        },
        "beanstalkd": {"servers": [beanstalkd.address], "tube": unique},
        "vendors": [
            {"name": "first", "type": "smtp", "host": "127.0.0.1"},
            {"name": "second", "type": "smtp", "host": "127.0.0.1"},
        ],
    }


@pytest.fixture
def config_mapping(mongod: Mongod, beanstalkd: Beanstalkd) -> Document:
    """What ``config.json`` would hold; a test may change it before it takes ``config``."""
    return new_settings(mongod, beanstalkd)


def refuse_real_names(config: Config) -> None:
    """Tests write to, empty and drop what a config names, so it must be named for tests."""
    names = (config.mongodb.database, config.mongodb.collection, config.beanstalkd.tube)
    if real := [name for name in names if not name.startswith(TEST_PREFIX)]:
        pytest.fail(f"tests refuse names that do not begin with {TEST_PREFIX}: {real}")


@pytest.fixture
def config(config_mapping: Document, mongo_client: MongoClient[Document]) -> Iterator[Config]:
    made = Config.from_mapping(config_mapping)
    refuse_real_names(made)
    yield made
    mongo_client.drop_database(made.mongodb.database)


@pytest.fixture
def emails(config: Config, mongo_client: MongoClient[Document]) -> Collection[Document]:
    """The collection of e-mail documents."""
    return mongo_client[config.mongodb.database][config.mongodb.collection]


@pytest.fixture
def stage(
    config: Config, config_mapping: Document, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """Vendors that count and an application, in production (of loopback); see ``tests.stage``."""
    from tests.stage import Stage

    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    with Stage(config_mapping) as made:
        yield made

"""The HTTP service as a real process, on the servers of the test run.

One process and one database serve all tests of this folder that change nothing of its settings;
each finds the collection empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

from mailqueue.config import Config
from mailqueue.devserver import Beanstalkd, Mongod
from tests.conftest import Document, new_settings
from tests.http_service import HttpService, Key


@pytest.fixture(scope="session")
def key() -> Key:
    """Of a caller that may do everything."""
    return Key.new("shop")


def _settings(mongod: Mongod, beanstalkd: Beanstalkd, key: Key) -> Document:
    vendors = [{"name": "first", "type": "smtp", "host": "127.0.0.1"}]
    return new_settings(mongod, beanstalkd) | {"vendors": vendors, "http": {"keys": [key.entry]}}


@pytest.fixture(scope="session")
def shared_settings(mongod: Mongod, beanstalkd: Beanstalkd, key: Key) -> Document:
    """Of the service that all tests share; not to be changed."""
    return _settings(mongod, beanstalkd, key)


@pytest.fixture(scope="session")
def shared_service(
    shared_settings: Document, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpService]:
    with HttpService(shared_settings, tmp_path_factory.mktemp("http")) as running:
        yield running


@pytest.fixture
def config(shared_settings: Document) -> Config:
    return Config.from_mapping(shared_settings)


@pytest.fixture
def emails(config: Config, mongo_client: MongoClient[Document]) -> Collection[Document]:
    """The collection of the shared service, empty."""
    collection = mongo_client[config.mongodb.database][config.mongodb.collection]
    collection.delete_many({})
    return collection


@pytest.fixture
def service(shared_service: HttpService, emails: Collection[Document]) -> HttpService:
    """The service, listening; nothing is stored yet."""
    return shared_service


@pytest.fixture
def settings(
    mongod: Mongod, beanstalkd: Beanstalkd, mongo_client: MongoClient[Document], key: Key
) -> Iterator[Document]:
    """The settings of a service of this test's own, to be changed."""
    made = _settings(mongod, beanstalkd, key)
    yield made
    mongo_client.drop_database(made["mongodb"]["database"])


@pytest.fixture
def own(settings: Document, tmp_path: Path) -> Iterator[HttpService]:
    """A service of this test's own."""
    with HttpService(settings, tmp_path / "own") as running:
        yield running

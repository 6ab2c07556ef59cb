"""What keeps the tests away from real data, and missing servers from going unnoticed."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from mailqueue.config import Config
from mailqueue.devserver.process import ServerNotFound
from tests.conftest import TEST_PREFIX, _running, refuse_real_names

VENDORS = [{"name": "only", "type": "smtp", "host": "127.0.0.1"}]


def named(database: str, collection: str, tube: str) -> Config:
    mongodb = {"database": database, "collection": collection}
    return Config.from_mapping(
        {"mongodb": mongodb, "beanstalkd": {"tube": tube}, "vendors": VENDORS}
    )


def test_tests_refuse_a_database_a_collection_and_a_tube_not_named_for_tests() -> None:
    our_fault = TEST_PREFIX + "name"
    refuse_real_names(named(our_fault, our_fault, our_fault))
    for names in (
        ("mail", our_fault, our_fault),
        (our_fault, "emails", our_fault),
        (our_fault, our_fault, "mailqueue"),
    ):
        with pytest.raises(pytest.fail.Exception, match="do not begin with"):
            refuse_real_names(named(*names))


class MissingServer(AbstractContextManager[None]):
    def __enter__(self) -> None:
        raise ServerNotFound("mongod is missing")

    def __exit__(self, *exc_info: object) -> None:
        """Never entered, never left."""


def test_a_missing_server_skips_its_tests_and_fails_them_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="mongod is missing"), _running(MissingServer()):
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="mongod is missing"), _running(MissingServer()):
        pass

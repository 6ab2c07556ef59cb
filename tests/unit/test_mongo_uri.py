"""A URI that is shared with other services cannot weaken what is promised."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pymongo import MongoClient, WriteConcern

from mailqueue.cli.installation import on_the_way
from mailqueue.config import MongoDB
from mailqueue.errors import ConfigError
from mailqueue.store import mongo
from mailqueue.store.uri import weak_options, without_weak_options
from tests.for_each import for_each

PLAIN = "mongodb://user:p%40ss@one,two:27018/shared?replicaSet=rs0&tls=true"


@for_each(
    "option",
    [
        *("w=1", "w=0", "w=2", "W=1", "journal=false", "j=false", "fsync=true", "wtimeoutMS=5"),
        *("retryWrites=false", "readConcernLevel=local", "readConcernLevel=available"),
        *("readPreference=secondary", "readPreference=nearest", "readPreferenceTags=dc:ny"),
        "maxStalenessSeconds=120",
    ],
)
def test_an_option_that_asks_for_less_is_dropped_and_named(option: str) -> None:
    uri = f"{PLAIN}&{option}"
    assert weak_options(uri) == [option.partition("=")[0]]
    assert without_weak_options(uri) == PLAIN


@for_each(
    "option",
    [
        *("w=majority", "journal=true", "retryWrites=true", "readPreference=primary"),
        *("readConcernLevel=majority", "maxPoolSize=50", "authSource=admin"),
        *("W=Majority", "journal=True", "readpreference=Primary"),
    ],
)
def test_an_option_that_does_not_is_left_alone(option: str) -> None:
    uri = f"{PLAIN}&{option}"
    assert weak_options(uri) == []
    assert without_weak_options(uri) == uri


def test_options_may_be_separated_in_the_old_way() -> None:
    uri = "mongodb://one/?w=1;replicaSet=rs0;journal=false"
    assert weak_options(uri) == ["w", "journal"]
    assert without_weak_options(uri) == "mongodb://one/?replicaSet=rs0"


def test_the_clients_own_defaults_are_durable_whatever_the_uri_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller's transactions go by them."""
    uri = "mongodb://127.0.0.1:1/?w=1&journal=false&retryWrites=false&wtimeoutMS=1"
    with caplog.at_level(logging.WARNING), mongo.connect(MongoDB(uri=uri)) as client:
        assert client.write_concern == WriteConcern(w="majority", j=True)
        assert client.options.retry_writes
    (record,) = caplog.records
    assert record.getMessage().startswith("mongodb.options_ignored")
    assert "w,journal,retryWrites,wtimeoutMS" in str(record.__dict__)


@pytest.mark.parametrize("w, weak", [(1, True), ("majority", False)])
def test_it_is_said_when_the_transactions_of_an_applications_own_client_are_weak(
    w: int | str, weak: bool, caplog: pytest.LogCaptureFixture
) -> None:
    client: MongoClient[dict[str, object]]
    with caplog.at_level(logging.WARNING), MongoClient("127.0.0.1", 1, w=w) as client:
        mongo.Mongo(MongoDB(), client)
    said = [record.getMessage().split()[0] for record in caplog.records]
    assert said == ["mongodb.transactions_weakened"] * weak


@pytest.mark.parametrize("option", ["tlsCAFile", "tlsCRLFile", "tlsCertificateKeyFile"])
def test_a_file_that_cannot_be_read_is_a_wrong_configuration_that_names_the_option(
    option: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"mongodb\.uri: {option} cannot be read as a PEM file"):
        mongo.connect(MongoDB(uri=f"mongodb://127.0.0.1:1/?tls=true&{option}={tmp_path}/none.pem"))
    (tmp_path / "rubbish.pem").write_text("hello")
    with pytest.raises(ConfigError, match=r"mongodb\.uri"):
        mongo.connect(MongoDB(uri=f"mongodb://127.0.0.1/?tls=true&{option}={tmp_path}/rubbish.pem"))


def test_a_socket_in_a_folder_is_on_this_host() -> None:
    assert list(on_the_way("mongodb://%2Frun%2Fmongodb.sock/?replicaSet=rs0")) == []
    assert list(on_the_way("mongodb://%2Frun%2Fmongodb.sock,db.example.com/")) != []

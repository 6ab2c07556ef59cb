"""MongoDB over TLS, asked for in the URI: a certificate that does not hold is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trustme
from pymongo import MongoClient

from mailqueue.config import Config
from mailqueue.devserver import Mongod
from mailqueue.devserver.process import HOST
from mailqueue.errors import StoreUnavailable
from mailqueue.producer import Producer
from tests.conftest import _running
from tests.servers import begin_set

SOON = 0.5


class TlsMongod(Mongod):
    """One that takes TLS connections only."""

    def __init__(self, certificate: Path, authority: str) -> None:
        super().__init__(
            *("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(certificate)),
            *("--tlsCAFile", authority, "--tlsAllowConnectionsWithoutCertificates"),
        )
        self._authority = authority

    def url(self, host: str = HOST, **options: str) -> str:
        given = {"directConnection": "true", "tls": "true", **options}
        return f"mongodb://{host}:{self.port}/?{urlencode(given)}"

    def _is_ready(self) -> bool:
        """As for one without TLS."""
        client: MongoClient[dict[str, Any]]
        with MongoClient(self.url(tlsCAFile=self._authority), timeoutMS=2000) as client:
            return begin_set(client, self.address)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def mongod_with_tls(folder: Path) -> Iterator[TlsMongod]:
    """Its certificate is for 127.0.0.1, by ``authority.pem``; ``other.pem`` had no part in it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    server = folder / "server.pem"
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(server))
    with _running(TlsMongod(server, str(folder / "authority.pem"))) as running:
        yield running


def send(config_mapping: dict[str, Any], uri: str) -> str:
    settings = {**config_mapping["mongodb"], "uri": uri, "timeout": SOON}
    with Producer(Config.from_mapping({**config_mapping, "mongodb": settings})) as producer:
        return producer.send({"from": "ann@example.com", "to": "bob@example.org", "text": "Hello"})


@pytest.fixture
def mapping() -> dict[str, Any]:
    names = {"database": "mailqueue_test_tls", "collection": "mailqueue_test_emails"}
    nobody = {"servers": ["127.0.0.1:1"], "tube": "mailqueue_test_tls"}
    smtp = {"name": "first", "type": "smtp", "host": HOST}
    return {"mongodb": names, "beanstalkd": nobody, "vendors": [smtp]}


def test_a_certificate_that_holds_is_taken(
    mapping: dict[str, Any], mongod_with_tls: TlsMongod, folder: Path
) -> None:
    """What the refusals below are worth."""
    uri = mongod_with_tls.url(tlsCAFile=str(folder / "authority.pem"))
    mapping["mongodb"]["timeout"] = 10
    assert len(send(mapping, uri)) == 24


@pytest.mark.parametrize(
    "host,authority",
    [("localhost", "authority.pem"), (HOST, "other.pem"), (HOST, None)],
    ids=["wrong host name", "untrusted authority", "not known to the system"],
)
def test_a_certificate_that_does_not_hold_is_refused(
    host: str,
    authority: str | None,
    mapping: dict[str, Any],
    mongod_with_tls: TlsMongod,
    folder: Path,
) -> None:
    options = {} if authority is None else {"tlsCAFile": str(folder / authority)}
    with pytest.raises(StoreUnavailable):
        send(mapping, mongod_with_tls.url(host, **options))

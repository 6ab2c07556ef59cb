"""Nothing in a configuration switches the verification of certificates off."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trustme

from mailqueue.config import Config
from mailqueue.config.config import SECTIONS
from mailqueue.config.section import keys_of
from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.errors import ConfigError
from mailqueue.message import Email
from mailqueue.vendors.http import HttpVendor
from mailqueue.vendors.smtp import Smtp
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import Attempts, Vendors
from tests.vendor_servers import HOST, HttpServer, SmtpServer

SWITCHES = ("verify", "verify_tls", "tls_verify", "insecure", "check_hostname", "ssl", "cert")


def test_no_key_of_the_configuration_is_about_verification() -> None:
    known = {name for section in SECTIONS.values() for name in keys_of(section)}
    known |= {name for vendor in VENDOR_TYPES.values() for name in vendor.keys}
    known -= {"client_cert", "certificate"}  # ours, to show; nothing follows for the other side
    words = ("verif", "insecure", "hostname", "cert", "ssl", "unsafe")
    assert not [name for name in known if any(word in name for word in words)]


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_key_that_would_switch_it_off_is_refused(switch: str) -> None:
    vendor = {"name": "first", "type": "smtp", "host": HOST, switch: False}
    with pytest.raises(ConfigError, match=rf"vendors\[0\]\.{switch}"):
        Config.from_mapping({"vendors": [vendor]})


@pytest.mark.parametrize("tls", ["off", "insecure", "STARTTLS-optional", ""])
def test_tls_of_an_smtp_server_is_one_of_three_words(tls: str) -> None:
    vendor = {"name": "first", "type": "smtp", "host": HOST, "tls": tls}
    with pytest.raises(ConfigError, match=r"vendors\[0\]\.tls"):
        Config.from_mapping({"vendors": [vendor]})


@pytest.fixture
def loose(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options and an environment that have such a meaning elsewhere."""
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    monkeypatch.setenv("CURL_CA_BUNDLE", "")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")
    return dict.fromkeys(SWITCHES, False)


@pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])
def test_neither_options_nor_the_environment_make_an_http_vendor_trust_a_stranger(
    case: Case, loose: dict[str, Any], vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    with HttpServer(case.accepted, tls=context) as server:
        made = vendor(case.type, base_url=server.url, keys=case.keys, options=loose)
        assert isinstance(made, HttpVendor)
        assert made.send(plain, attempt()).code == "tls"
        made.close()
    assert server.requests == []


def test_neither_options_nor_the_environment_make_the_smtp_vendor_trust_a_stranger(
    loose: dict[str, Any], vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    with SmtpServer(tls=context) as server:
        keys = {"host": HOST, "port": server.port, "tls": "starttls"}
        made = vendor("smtp", keys=keys, options=loose)
        assert isinstance(made, Smtp)
        tls = made._pool.tls
        assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert made.send(plain, attempt()).code == "tls"
    assert server.letters == []

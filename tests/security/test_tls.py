"""A vendor whose certificate does not hold gets no e-mail, no password and no key."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.http import HttpVendor
from mailqueue.vendors.smtp import Smtp
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import Attempts, Vendors
from tests.security.conftest import BAD, Certificates
from tests.vendor_servers import HOST, HttpServer, ScriptedSmtp, SmtpServer, Wire, hang, polite_but

LOGIN = ("ann", "secret-of-the-account")
REFUSED = SendResult(outcome=Outcome.UNAVAILABLE, code="tls", answered=False)
Opened = Callable[[Any], Any]

each_vendor = pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])
each_flaw = pytest.mark.parametrize("flaw", BAD)


@pytest.fixture
def smtp(opened: Opened, vendor: Vendors, authority: trustme.CA) -> Callable[..., Smtp]:
    """An SMTP vendor that trusts the one authority; closed before its server."""

    def make(port: int, tls: str) -> Smtp:
        keys = {"host": HOST, "port": port, "tls": tls}
        if tls == "starttls":  # aiosmtpd takes no login on implicit TLS
            keys |= {"username": LOGIN[0], "password": LOGIN[1]}
        made = vendor("smtp", keys=keys)
        assert isinstance(made, Smtp)
        authority.configure_trust(made._pool.tls)
        return made

    return make


@pytest.fixture
def http(opened: Opened, vendor: Vendors, trusted: str) -> Callable[..., HttpVendor]:
    """An HTTP vendor that trusts the one authority; closed before its server."""

    def make(case: Case, url: str) -> HttpVendor:
        made = vendor(case.type, base_url=url, keys=case.keys)
        assert isinstance(made, HttpVendor)
        made.transport.ca_file = trusted
        return made

    return make


# --- HTTPS


@each_vendor
def test_a_good_certificate_is_taken_by_http_vendors(
    case: Case,
    http: Callable[..., HttpVendor],
    certificate: Certificates,
    opened: Opened,
    attempt: Attempts,
    plain: Email,
) -> None:
    """What the refusals below are worth."""
    server = opened(HttpServer(case.accepted, tls=certificate("good")))
    assert http(case, server.url).send(plain, attempt()).outcome is Outcome.ACCEPTED


@each_vendor
@each_flaw
def test_an_http_vendor_with_a_bad_certificate_gets_nothing(
    case: Case,
    flaw: str,
    http: Callable[..., HttpVendor],
    certificate: Certificates,
    opened: Opened,
    attempt: Attempts,
    plain: Email,
) -> None:
    server = opened(HttpServer(case.accepted, tls=certificate(flaw)))
    assert http(case, server.url).send(plain, attempt()) == REFUSED
    assert server.requests == []


def test_an_http_vendor_trusts_the_authorities_of_its_ca_file_and_no_others(
    vendor: Vendors,
    certificate: Certificates,
    trusted: str,
    opened: Opened,
    attempt: Attempts,
    plain: Email,
) -> None:
    case = CASES[0]
    own = opened(HttpServer(case.accepted, tls=certificate("good")))
    other = opened(HttpServer(case.accepted, tls=certificate("untrusted authority")))
    made = [
        vendor(case.type, base_url=server.url, keys=case.keys, ca_file=trusted)
        for server in (own, other)
    ]
    results = [each.send(plain, attempt()) for each in made]
    assert [result.outcome for result in results] == [Outcome.ACCEPTED, Outcome.UNAVAILABLE]
    assert results[1] == REFUSED


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_ca_file_that_cannot_be_used_is_said_when_the_vendor_is_made(
    content: bytes | None, vendor: Vendors, tmp_path: Path
) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_bytes(content)
    case = CASES[0]
    with pytest.raises(ConfigError, match=r"vendors\.first\.ca_file: cannot be read"):
        vendor(case.type, base_url=f"https://{HOST}", keys=case.keys, ca_file=str(file))


# --- SMTP


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_good_certificate_is_taken_by_smtp_vendors(
    tls: str,
    smtp: Callable[..., Smtp],
    certificate: Certificates,
    opened: Opened,
    attempt: Attempts,
    plain: Email,
) -> None:
    implicit = tls == "implicit"
    login = None if implicit else LOGIN
    server = opened(SmtpServer(tls=certificate("good"), implicit=implicit, login=login))
    assert smtp(server.port, tls).send(plain, attempt()).outcome is Outcome.ACCEPTED


@each_flaw
def test_an_smtp_vendor_with_a_bad_certificate_gets_nothing(
    flaw: str,
    smtp: Callable[..., Smtp],
    certificate: Certificates,
    opened: Opened,
    attempt: Attempts,
    plain: Email,
) -> None:
    implicit = opened(HttpServer(hang, tls=certificate(flaw)))
    assert smtp(implicit.port, "implicit").send(plain, attempt()) == REFUSED
    assert implicit.connections == 1
    talk = SecuringSmtp(certificate(flaw))
    starttls = opened(HttpServer(hang, on_connect=talk))
    assert smtp(starttls.port, "starttls").send(plain, attempt()) == REFUSED
    assert talk.lines == ["EHLO", "STARTTLS"]


@pytest.mark.parametrize(
    "offer",
    [b"250-me\r\n250 AUTH PLAIN LOGIN\r\n", b"250-me\r\n250-XXXXXXXA\r\n250 AUTH PLAIN\r\n"],
)
def test_a_stripped_starttls_is_refused_and_neither_login_nor_email_goes_out(
    offer: bytes, smtp: Callable[..., Smtp], opened: Opened, attempt: Attempts, plain: Email
) -> None:
    server = opened(ScriptedSmtp(polite_but(EHLO=offer)))
    result = smtp(server.port, "starttls").send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "tls")
    assert [line.partition(" ")[0] for line in server.lines] == ["", "EHLO"]


def test_a_refused_starttls_is_no_reason_to_go_on_in_plain_text(
    smtp: Callable[..., Smtp], opened: Opened, attempt: Attempts, plain: Email
) -> None:
    offer = b"250-me\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"
    server = opened(ScriptedSmtp(polite_but(EHLO=offer, STARTTLS=b"502 no\r\n")))
    result = smtp(server.port, "starttls").send(plain, attempt())
    assert result.outcome is Outcome.UNAVAILABLE
    assert [line.partition(" ")[0] for line in server.lines] == ["", "EHLO", "STARTTLS"]


INJECTED = [
    b"250-me\r\n250 SIZE 1\r\n",
    b"250 me\r\n235 logged in\r\n250 ok\r\n250 ok\r\n354 go on\r\n250 taken\r\n",
]


@pytest.mark.parametrize("injected", INJECTED)
def test_plain_text_after_the_reply_to_starttls_is_not_obeyed(
    injected: bytes,
    smtp: Callable[..., Smtp],
    certificate: Certificates,
    opened: Opened,
    attempt: Attempts,
    plain: Email,
) -> None:
    """Replies in the same segment as the 220 are not taken for those of the secured server."""
    secured = SecuringSmtp(certificate("good"), injected)
    server = opened(HttpServer(hang, on_connect=secured))
    result = smtp(server.port, "starttls").send(plain, attempt())
    assert secured.lines.count("EHLO") == 2
    # The secured server takes nobody: were the injected replies obeyed, the e-mail would be
    # accepted, or too large.
    assert (result.outcome, result.code) == (Outcome.REJECTED, "smtp-550")


class SecuringSmtp:
    """STARTTLS is answered, with ``injected`` right behind; ``lines`` has the commands' words."""

    def __init__(self, tls: ssl.SSLContext, injected: bytes = b"") -> None:
        self._tls, self._injected = tls, injected
        self.lines: list[str] = []

    def __call__(self, wire: Wire) -> None:
        wire.sock.sendall(b"220 ready\r\n")
        with wire.sock.makefile("rb") as stream:
            while (word := self._command(stream)) != "STARTTLS":
                wire.sock.sendall(
                    b"250-me\r\n250 STARTTLS\r\n" if word == "EHLO" else b"250 Ok\r\n"
                )
        wire.sock.sendall(b"220 go on\r\n" + self._injected)
        secured = self._tls.wrap_socket(wire.sock, server_side=True)
        with secured, secured.makefile("rb") as stream:
            while word := self._command(stream):
                secured.sendall(self._reply(word))

    def _command(self, stream: Any) -> str:
        word = str(stream.readline().decode().partition(" ")[0].strip().upper())
        self.lines.append(word)
        return word

    @staticmethod
    def _reply(word: str) -> bytes:
        special = {"EHLO": b"250-me\r\n250 AUTH PLAIN", "AUTH": b"235 ok", "RCPT": b"550 nobody"}
        return special.get(word, b"250 Ok") + b"\r\n"

"""What is said to an SMTP server before the e-mail, and what is taken for a reply of it."""

from __future__ import annotations

import base64
import hmac
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from mailqueue.config import VendorConfig
from mailqueue.consumer.__main__ import main
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Email
from mailqueue.vendors.answers import sanitize
from mailqueue.vendors.smtp import Smtp
from mailqueue.vendors.wire import smtp_connection
from mailqueue.vendors.wire.smtp_connection import MAX_LINE, MAX_REPLY, Connection
from tests.contract.conftest import Attempts, Vendors
from tests.vendor_servers import HOST, Line, ScriptedSmtp, SmtpServer, Wire, polite, polite_but

Say = Callable[[Line], ScriptedSmtp]
Make = Callable[..., Smtp]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def say(stack: ExitStack) -> Say:
    return lambda answer: stack.enter_context(ScriptedSmtp(answer))


@pytest.fixture
def make(vendor: Vendors) -> Make:
    def make(port: int, tls: str = "none", ca_file: str | None = None, **keys: Any) -> Smtp:
        keys = {"host": HOST, "port": port, "tls": tls, **keys}
        made = vendor("smtp", keys=keys, ca_file=ca_file)
        assert isinstance(made, Smtp)
        return made

    return make


# --- our name


def test_the_name_in_ehlo_is_the_configured_one(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite)
    make(server.port, helo="app.example.com").send(plain, attempt())
    assert "EHLO app.example.com" in server.lines


@pytest.mark.parametrize(
    "own,resolved,told",
    [
        ("app.example.com", "never asked", "app.example.com"),
        ("app", "app.example.com", "app.example.com"),
        ("app", "app", f"[{HOST}]"),
        ("localhost.localdomain", "x", f"[{HOST}]"),
        ("app", "localhost", f"[{HOST}]"),
        ("not_a.name", "x", f"[{HOST}]"),
    ],
)
def test_the_name_in_ehlo_is_else_the_hosts_full_name_or_its_address(
    own: str,
    resolved: str,
    told: str,
    say: Say,
    make: Make,
    attempt: Attempts,
    plain: Email,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: own)
    monkeypatch.setattr("socket.getfqdn", lambda: resolved)
    smtp_connection._host_names.cache_clear()
    server = say(polite)
    make(server.port).send(plain, attempt())
    smtp_connection._host_names.cache_clear()
    assert f"EHLO {told}" in server.lines


def test_a_resolver_that_hangs_is_asked_once_and_not_waited_for(
    say: Say,
    make: Make,
    attempt: Attempts,
    plain: Email,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer, asked = threading.Event(), []

    def hang() -> str:
        asked.append(1)
        answer.wait(10)
        return "app.example.com"

    monkeypatch.setattr("socket.gethostname", lambda: "app")
    monkeypatch.setattr("socket.getfqdn", hang)
    monkeypatch.setattr(smtp_connection, "LOOKUP_SECONDS", 0.01)
    smtp_connection._host_names.cache_clear()
    server = say(polite)
    for name in ("first", "second"):
        make(server.port, username=name, password="x").send(plain, attempt())
    assert server.lines.count(f"EHLO [{HOST}]") == 2
    assert asked == [1]
    answer.set()
    smtp_connection._host_names.cache_clear()


@pytest.mark.parametrize("helo", ["a b", "x\r\nRSET", "[1.2.3.4", "-", "ü.example"])
def test_a_name_that_cannot_stand_in_ehlo_is_a_config_error(helo: str, make: Make) -> None:
    with pytest.raises(ConfigError, match="helo"):
        make(25, helo=helo)


EHLO_REFUSED: list[tuple[dict[str, bytes | None], Outcome, str]] = [
    ({"EHLO": b"421 4.7.0 no (EHLO)\r\n", "HELO": None}, Outcome.THROTTLED, "no (EHLO)"),
    ({"EHLO": b"501 5.5.4 bad name\r\n", "HELO": None}, Outcome.UNAVAILABLE, "bad name"),
    ({"EHLO": b"550-who\r\n550 are you\r\n"}, Outcome.UNAVAILABLE, "who are you"),
    ({"EHLO": b"502 what\r\n", "HELO": b"550 go\r\n"}, Outcome.UNAVAILABLE, "go"),
    ({"EHLO": b"550 5.7.1 HELO/EHLO rejected\r\n"}, Outcome.UNAVAILABLE, "HELO/EHLO rejected"),
    (
        {"EHLO": b"504 5.5.2 need fully-qualified hostname\r\n", "HELO": b"504 same\r\n"},
        Outcome.UNAVAILABLE,
        "same",
    ),
    ({"MAIL": b"550 5.7.1 HELO/EHLO rejected\r\n"}, Outcome.UNSUITABLE, "HELO/EHLO rejected"),
    ({"RCPT": b"504 5.5.2 Helo command rejected\r\n"}, Outcome.UNSUITABLE, "Helo command"),
    ({"MESSAGE": b"550 invalid HELO name\r\n"}, Outcome.UNSUITABLE, "invalid HELO"),
]


@pytest.mark.parametrize("replies,outcome,detail", EHLO_REFUSED)
def test_a_server_that_refuses_our_name_ends_no_email_before_one_was_named(
    replies: dict[str, bytes | None],
    outcome: Outcome,
    detail: str,
    say: Say,
    make: Make,
    attempt: Attempts,
    plain: Email,
) -> None:
    made = make(say(polite_but(**replies)).port)
    result = sanitize(made.send(plain, attempt()), plain, made)
    assert result.outcome is outcome
    assert detail in result.detail


# --- logging in

USER, PASSWORD = "zoë", "pässwörd€"


def logs_in(wire: Wire, line: str, offer: str) -> bytes | None:
    """A server with this mechanism that believes whoever comes."""
    word = line.partition(" ")[0]
    if word == "EHLO":
        return f"250-me\r\n250 AUTH {offer}\r\n".encode()
    if line.startswith("AUTH PLAIN "):
        return b"235 ok\r\n"
    if word == "AUTH":
        return b"334 " + base64.b64encode(b"<1.2@me>") + b"\r\n"
    known = ("", "MAIL", "RCPT", "DATA", "MESSAGE", "RSET", "QUIT")
    if word not in known:  # what was answered to a challenge
        return b"334 UGFzc3dvcmQ6\r\n" if word == packed(USER).upper() else b"235 ok\r\n"
    return polite(wire, line)


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


DIGEST = hmac.new(PASSWORD.encode(), b"<1.2@me>", "md5").hexdigest()
LOGINS = {
    "PLAIN": [f"AUTH PLAIN {packed(f'{chr(0)}{USER}{chr(0)}{PASSWORD}')}"],
    "LOGIN": ["AUTH LOGIN", packed(USER).upper(), packed(PASSWORD).upper()],
    "CRAM-MD5": ["AUTH CRAM-MD5", packed(f"{USER} {DIGEST}").upper()],
}


@pytest.mark.parametrize("mechanism", LOGINS)
def test_user_and_password_go_as_utf_8(
    mechanism: str, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(lambda wire, line: logs_in(wire, line, mechanism))
    result = make(server.port, username=USER, password=PASSWORD).send(plain, attempt())
    assert result.outcome is Outcome.ACCEPTED
    assert [line for line in server.lines if line in LOGINS[mechanism]] == LOGINS[mechanism]


def test_where_md5_is_forbidden_another_login_is_used(
    say: Say, make: Make, attempt: Attempts, plain: Email, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> Any:
        raise ValueError("[digital envelope routines] unsupported")

    monkeypatch.setattr(hmac, "new", forbidden)
    server = say(lambda wire, line: logs_in(wire, line, "CRAM-MD5 PLAIN"))
    vendor = make(server.port, username=USER, password=PASSWORD)
    assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert "AUTH CRAM-MD5" not in server.lines


def test_a_login_is_not_told_in_base64_either(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    forms = (PASSWORD, packed(PASSWORD), packed(f"\0{USER}\0{PASSWORD}"))
    said = "535 5.7.8 no: " + " ".join(forms)

    def answer(wire: Wire, line: str) -> bytes | None:
        if line.startswith("AUTH"):
            return said.encode() + b"\r\n"
        return logs_in(wire, line, "PLAIN")

    made = make(say(answer).port, username=USER, password=PASSWORD)
    result = sanitize(made.send(plain, attempt()), plain, made)
    assert result.detail == "5.7.8 no: * * *"


@pytest.mark.parametrize("challenge", [b"334 !\r\n", b"334 a\r\n", b"334\r\n"])
def test_a_challenge_that_is_none_ends_in_a_result(
    challenge: bytes, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    def answer(wire: Wire, line: str) -> bytes | None:
        if line.startswith("EHLO"):
            return b"250-me\r\n250 AUTH CRAM-MD5 LOGIN\r\n"
        return (
            challenge if line.startswith("AUTH") else polite_but(**{"*": b"501 ok\r\n"})(wire, line)
        )

    result = make(say(answer).port, username="ann", password="x").send(plain, attempt())
    assert result.outcome is not Outcome.ACCEPTED


# --- TLS


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """The authority's certificate, and one for us with its key, in files."""
    ours = authority.issue_cert("app.example.com")
    names = {name: str(tmp_path / name) for name in ("ca", "cert", "key", "both")}
    authority.cert_pem.write_to_path(names["ca"])
    ours.cert_chain_pems[0].write_to_path(names["cert"])
    ours.private_key_pem.write_to_path(names["key"])
    ours.private_key_and_cert_chain_pem.write_to_path(names["both"])
    return names


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_private_authority_is_trusted_and_our_own_certificate_is_shown(
    tls: str,
    authority: trustme.CA,
    files: dict[str, str],
    stack: ExitStack,
    make: Make,
    attempt: Attempts,
    plain: Email,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    server = stack.enter_context(SmtpServer(tls=context, implicit=tls == "implicit"))
    apart = {"client_cert": files["cert"], "client_key": files["key"]}
    for keys in ({"client_cert": files["both"]}, apart):
        vendor = make(server.port, tls, ca_file=files["ca"], **keys)
        assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    logging.getLogger("mail.log").disabled = True  # aiosmtpd's: it says what it thinks of us
    result = make(server.port, tls, ca_file=files["ca"]).send(plain, attempt())
    assert result.outcome is Outcome.UNAVAILABLE


@pytest.mark.parametrize("key", ["ca_file", "client_cert", "client_key"])
def test_a_file_that_cannot_be_read_ends_the_consumer_at_its_start(
    key: str,
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = f'{{"name": "relay", "type": "smtp", "host": "{HOST}"'
    entry += f', "client_cert": "{files["cert"]}"' if key == "client_key" else ""
    config = tmp_path / "config.json"
    config.write_text(f'{{"vendors": [{entry}, "{key}": "{tmp_path}/none.pem"}}]}}')
    monkeypatch.setenv("MAILQUEUE_ENV", "production")
    assert main(["--config", str(config)]) == 2
    assert f"vendors.relay.{key}: cannot be read" in capsys.readouterr().err


def test_a_key_without_its_certificate_is_a_config_error(files: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="client_key: needs client_cert"):
        VendorConfig(name="r", type="smtp", keys={"host": HOST, "client_key": files["key"]})


# --- replies


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes were read from the server at a time."""
    sizes: list[int] = []
    genuine = Connection._read

    def counted(self: Connection) -> bytes:
        octets = genuine(self)
        sizes.append(len(octets))
        return octets

    monkeypatch.setattr(Connection, "_read", counted)
    return sizes


ENDLESS = [b"250-" + b"x" * 500 + b"\r\n", b"x" * 512, b"250-\r\n", b"250 " + b"x" * 508]


@pytest.mark.parametrize("piece", ENDLESS)
@pytest.mark.parametrize("step", ["GREETING", "EHLO", "MAIL", "MESSAGE"])
def test_a_reply_without_end_is_cut(
    step: str,
    piece: bytes,
    read: list[int],
    say: Say,
    make: Make,
    attempt: Attempts,
    plain: Email,
) -> None:
    def answer(wire: Wire, line: str) -> bytes | None:
        if (line.partition(" ")[0] or "GREETING") != step:
            return polite(wire, line)
        with suppress(OSError):
            for _ in range(2000):
                wire.sock.sendall(piece * 10)
        return None

    result = make(say(answer).port).send(plain, attempt())
    outcome = Outcome.UNKNOWN if step == "MESSAGE" else Outcome.UNAVAILABLE
    assert (result.outcome, result.code) == (outcome, "bad_answer")
    assert sum(read) <= MAX_REPLY + MAX_LINE + 2 * 4096


NO_REPLY = [
    *(b"250-a\r\n550 b\r\n", b"2500 ok\r\n", b"2_0 ok\r\n", b"+25 ok\r\n", b"250ok\r\n"),
    *(
        b" 250 ok\r\n",
        b"\r\n",
        b"150 ok\r\n",
        b"650 ok\r\n",
        b"\xef\xbc\x92\xef\xbc\x95\xef\xbc\x90 ok\r\n",
        b"250\tok\r\n",
    ),
]


@pytest.mark.parametrize("reply", NO_REPLY)
def test_what_is_no_reply_is_no_yes(
    reply: bytes, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    for step, outcome in (("RCPT", Outcome.UNAVAILABLE), ("MESSAGE", Outcome.UNKNOWN)):
        result = make(say(polite_but(**{step: reply})).port).send(plain, attempt())
        assert (result.outcome, result.code) == (outcome, "bad_answer")


@pytest.mark.parametrize(
    "reply", [b"250\r\n", b"250 ok\n", b"250-a\r\n250-b\r\n250 c\r\n", b"251 x\r\n"]
)
def test_a_reply_may_be_written_in_several_ways(
    reply: bytes, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(RCPT=reply, MESSAGE=reply))
    assert make(server.port).send(plain, attempt()).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("step", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA"])
def test_a_reply_that_nobody_asked_for_is_not_taken_for_the_next(
    step: str, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    """The message would be called sent before the server has seen its end."""

    def twice(wire: Wire, line: str) -> bytes | None:
        reply = polite(wire, line) or b""
        if (line.partition(" ")[0] or "GREETING") == step:
            return reply + b"250 2.0.0 Ok: queued\r\n"
        return None if line == "MESSAGE" else reply

    result = make(say(twice).port).send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.UNAVAILABLE, "bad_answer")


def test_a_connection_with_a_reply_too_many_is_not_used_again(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(MESSAGE=b"250 ok\r\n550 or not\r\n"))
    vendor = make(server.port)
    for _ in range(2):
        assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert server.connections == 2


def test_a_farewell_that_came_ahead_is_taken_for_what_it_is(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(RCPT=b"250 ok\r\n421 4.3.2 shutting down\r\n"))
    result = make(server.port).send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.THROTTLED, "smtp-421")


@pytest.mark.parametrize(
    "reply, outcome",
    [
        (b"452 4.3.1 insufficient storage", Outcome.DEFERRED),
        (b"552 5.3.4 too big", Outcome.UNSUITABLE),
        (b"421 4.3.2 shutting down", Outcome.THROTTLED),
    ],
)
def test_a_refusal_before_the_message_has_begun_is_an_answer(
    reply: bytes, outcome: Outcome, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(DATA=b"354 go on\r\n" + reply + b"\r\n"))
    result = make(server.port).send(plain, attempt())
    assert (result.outcome, result.code) == (outcome, f"smtp-{reply[:3].decode()}")


def test_a_refusal_before_the_message_is_through_is_an_answer(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    """Of a server that stops reading: its words count, not that the connection broke."""

    def answer(wire: Wire, line: str) -> bytes | None:
        if line != "DATA":
            return polite_but(EHLO=b"250 me\r\n")(wire, line)
        wire.sock.sendall(b"354 go on\r\n")
        wire.sock.recv(4096)
        wire.sock.sendall(b"552 5.3.4 too big\r\n")
        wire.reset()
        return None

    server = stack.enter_context(ScriptedSmtp(answer))
    large = Email.from_mapping({**plain.to_mapping(), "text": "x\n" * 5_000_000})
    result = make(server.port).send(large, attempt())
    assert (result.outcome, result.code) == (Outcome.UNSUITABLE, "smtp-552")

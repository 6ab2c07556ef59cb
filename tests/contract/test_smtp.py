"""The contract of the SMTP vendor, on a real server and on one that says what it is told."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import trustme

from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.answers import sanitize
from mailqueue.vendors.smtp import Smtp
from tests.contract.conftest import DATE, EMAIL_ID, MESSAGE_ID, Attempts, Vendors
from tests.vendor_servers import HOST, Line, ScriptedSmtp, SmtpServer, Wire, polite, polite_but

SOON = 0.3
PASSWORD = "secret-of-the-account"

Serve = Callable[..., SmtpServer]
Say = Callable[[Line], ScriptedSmtp]
Make = Callable[..., Smtp]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(SmtpServer(**options))


@pytest.fixture
def say() -> Iterator[Say]:
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(ScriptedSmtp(answer))


@pytest.fixture
def make(vendor: Vendors) -> Make:
    def make(port: int, tls: str = "none", **fields: Any) -> Smtp:
        login = fields.pop("login", None)
        keys = {"host": HOST, "port": port, "tls": tls}
        if login is not None:
            keys |= {"username": login[0], "password": login[1]}
        made = vendor("smtp", keys=keys, **fields)
        assert isinstance(made, Smtp)
        return made

    return make


@pytest.fixture
def certificate(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    return context


@pytest.fixture
def trust(authority: trustme.CA) -> Callable[[Smtp], Smtp]:
    def trust(vendor: Smtp) -> Smtp:
        authority.configure_trust(vendor._pool.tls)
        return vendor

    return trust


# --- what is sent


def test_an_email_goes_to_its_envelope_and_shows_no_bcc(
    serve: Serve, make: Make, attempt: Attempts, rich: Email
) -> None:
    server = serve()
    result = make(server.port).send(rich, attempt())
    (letter,) = server.letters
    assert (result.outcome, result.code) == (Outcome.ACCEPTED, "smtp-250")
    assert "queued as 4AB12" in result.detail
    assert result.message_id == MESSAGE_ID
    assert letter.sender == "ann@xn--bcher-kva.example"
    assert sorted(letter.recipients) == sorted(a.ascii for a in rich.recipients)
    message = letter.message
    assert message["Bcc"] is None
    assert b"eve@example.net" not in letter.octets
    assert message["Subject"] == rich.subject
    assert message["Message-ID"] == MESSAGE_ID
    assert message["X-Mailqueue-Id"] == EMAIL_ID
    assert message["X-Campaign"] == "spring"
    assert [a.display_name for a in message["Cc"].addresses] == [a.name for a in rich.cc]
    assert parsedate_to_datetime(message["Date"]) == DATE
    files = {
        part.get_filename(): part.get_payload(decode=True)
        for part in message.walk()
        if part.get_filename()
    }
    assert files["plan.pdf"] == b"%PDF\r\n--\x00\xff"
    assert files["Übersicht.txt"] == "ä".encode()


def test_lines_that_begin_with_a_dot_arrive_as_they_were(
    serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve()
    dots = Email.from_mapping({**plain.to_mapping(), "text": ".\r\n..\r\n.x\r\nend"})
    assert make(server.port).send(dots, attempt()).outcome is Outcome.ACCEPTED
    assert server.letters[0].message.get_content().splitlines() == [".", "..", ".x", "end"]


def test_the_same_email_and_attempt_make_the_same_bytes(
    serve: Serve, make: Make, attempt: Attempts, rich: Email
) -> None:
    server = serve()
    vendor = make(server.port)
    for _ in range(2):
        vendor.send(rich, attempt())
    assert server.letters[0].octets == server.letters[1].octets


def test_a_later_attempt_goes_only_to_the_recipients_that_it_names(
    serve: Serve, make: Make, attempt: Attempts, rich: Email
) -> None:
    server = serve()
    make(server.port).send(rich, attempt(recipients=("bob@example.net",)))
    (letter,) = server.letters
    assert letter.recipients == ["bob@example.net"]
    assert len(letter.message["To"].addresses) == len(rich.to)


def test_the_vendors_own_from_is_the_senders_envelope_and_header(
    serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve()
    make(server.port, from_="Desk <desk@example.com>").send(plain, attempt())
    (letter,) = server.letters
    assert letter.sender == "desk@example.com"
    assert letter.message["From"] == "Desk <desk@example.com>"


def test_a_from_that_is_no_address_is_a_config_error(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"vendors\.first\.from"):
        make(25, from_="Desk <a..b@-x->")


def test_there_is_no_sandbox(vendor: Vendors) -> None:
    with pytest.raises(ConfigError, match=r"vendors\.first\.sandbox: smtp has no sandbox"):
        vendor("smtp", keys={"host": HOST}, sandbox=True)


def test_a_header_that_could_inject_another_is_refused_before_anything_is_sent(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite)
    stored = Email.from_document({**plain.to_mapping(), "subject": "A\r\nBcc: i@example.org"})
    result = make(server.port).send(stored, attempt())
    assert (result.outcome, result.code) == (Outcome.REJECTED, "header_injection")
    assert server.connections == 0


def test_a_non_ascii_mailbox_needs_a_server_that_offers_smtputf8(
    serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    unicode = Email.from_mapping({**plain.to_mapping(), "to": ["dörte@example.net"]})
    server = serve()
    vendor = make(server.port)
    assert vendor.can_carry(unicode) is None
    assert vendor.send(unicode, attempt()).outcome is Outcome.ACCEPTED
    assert server.letters[0].recipients == ["dörte@example.net"]
    assert "SMTPUTF8" in server.letters[0].options
    result = make(serve(smtputf8=False).port).send(unicode, attempt())
    assert (result.outcome, result.code) == (Outcome.UNSUITABLE, "smtputf8")


def test_an_ascii_email_does_not_ask_for_smtputf8(
    serve: Serve, make: Make, attempt: Attempts, rich: Email
) -> None:
    server = serve()
    make(server.port).send(rich, attempt())
    (option,) = server.letters[0].options
    assert option.startswith("SIZE=")


def test_an_email_larger_than_the_server_announces_is_unsuitable_before_it_is_sent(
    serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(size=100)
    vendor = make(server.port)
    result = vendor.send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.UNSUITABLE, "size")
    assert "MAIL" not in server.handler.steps


# --- how the connection is secured


def test_starttls_is_used_and_verified(
    serve: Serve,
    make: Make,
    attempt: Attempts,
    plain: Email,
    certificate: ssl.SSLContext,
    trust: Callable[[Smtp], Smtp],
) -> None:
    server = serve(tls=certificate, login=("ann", PASSWORD))
    login = {"tls": "starttls", "login": ("ann", PASSWORD)}
    assert trust(make(server.port, **login)).send(plain, attempt()).outcome is Outcome.ACCEPTED
    result = make(server.port, name="second", **login).send(plain, attempt())
    assert result == SendResult(outcome=Outcome.UNAVAILABLE, code="tls", answered=False)
    assert len(server.letters) == 1


def test_implicit_tls_is_used_and_verified(
    serve: Serve,
    make: Make,
    attempt: Attempts,
    plain: Email,
    certificate: ssl.SSLContext,
    trust: Callable[[Smtp], Smtp],
) -> None:
    server = serve(tls=certificate, implicit=True)
    vendor = trust(make(server.port, "implicit"))
    assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    result = make(server.port, "implicit", name="second").send(plain, attempt())
    assert result == SendResult(outcome=Outcome.UNAVAILABLE, code="tls", answered=False)


def test_a_stripped_starttls_is_refused_and_no_password_goes_out(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite)
    vendor = make(server.port, "starttls", login=("ann", PASSWORD))
    result = vendor.send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "tls")
    assert [line.partition(" ")[0] for line in server.lines] == ["", "EHLO"]


OFFERS = b"250-me\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"


def test_starttls_that_fails_is_unavailable(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(EHLO=OFFERS, STARTTLS=b"454 not now\r\n"))
    result = make(server.port, "starttls").send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.UNAVAILABLE, "smtp-454")


def test_a_tls_handshake_that_hangs_ends_at_the_deadline(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    def silent(wire: Wire, _: str) -> bytes | None:
        wire.stopped.wait(30)
        return None

    expected = SendResult(outcome=Outcome.UNAVAILABLE, code="deadline", answered=False)
    server = say(silent)
    assert make(server.port, "implicit").send(plain, attempt(SOON)) == expected

    def silent_later(wire: Wire, line: str) -> bytes | None:
        if line == "STARTTLS":
            wire.sock.sendall(b"220 go on\r\n")
            return silent(wire, line)
        return polite_but(EHLO=OFFERS)(wire, line)

    server = say(silent_later)
    assert make(server.port, "starttls").send(plain, attempt(SOON)) == expected


# --- logging in


def test_a_wrong_password_is_misconfigured_and_shown_nowhere(
    serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(login=("ann@example.org", "another"))
    vendor = make(server.port, login=("ann@example.org", PASSWORD))
    result = vendor.send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "smtp-535")
    assert PASSWORD not in f"{result} {vendor!r} {vendor.config!r}"
    assert server.letters == []


@pytest.mark.parametrize(
    "reply,outcome",
    [
        (b"535 5.7.8 Too many connections per account", Outcome.THROTTLED),
        (b"454 4.7.0 Throttling failure: Maximum sending rate exceeded", Outcome.THROTTLED),
        (b"421 4.7.0 later", Outcome.THROTTLED),
        (b"534 5.7.9 stronger", Outcome.MISCONFIGURED),
        (b"530 5.7.0 required", Outcome.MISCONFIGURED),
        (b"451 Authentication failed: Maximum credits exceeded", Outcome.MISCONFIGURED),
        (b"451 4.3.0 later", Outcome.UNAVAILABLE),
    ],
)
def test_what_a_refused_login_means(
    reply: bytes, outcome: Outcome, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(EHLO=b"250-me\r\n250 AUTH PLAIN\r\n", AUTH=reply + b"\r\n"))
    result = make(server.port, login=("ann", PASSWORD)).send(plain, attempt())
    assert (result.outcome, result.code) == (outcome, f"smtp-{reply[:3].decode()}")


@pytest.mark.parametrize("offer", [b"250 me\r\n", b"250 AUTH NTLM\r\n"])
def test_a_login_that_cannot_even_be_tried_is_misconfigured(
    offer: bytes, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(EHLO=b"250-me\r\n" + offer))
    result = make(server.port, login=("ann", PASSWORD)).send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "smtp-auth")


def test_a_connection_lost_during_the_login_is_unavailable(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(EHLO=b"250-me\r\n250 AUTH PLAIN\r\n", AUTH=None))
    result = make(server.port, login=("ann", PASSWORD)).send(plain, attempt())
    assert result == SendResult(outcome=Outcome.UNAVAILABLE, code="connection_lost", answered=False)


# --- which step failed


STEPS = [
    ({"GREETING": b"421 too busy"}, Outcome.THROTTLED, "smtp-421"),
    ({"GREETING": b"554 no service"}, Outcome.UNAVAILABLE, "smtp-554"),
    ({"EHLO": b"502 what", "HELO": b"501 no"}, Outcome.UNAVAILABLE, "smtp-501"),
    ({"MAIL": b"550 5.7.1 sender not verified"}, Outcome.UNSUITABLE, "smtp-550"),
    ({"MAIL": b"552 5.3.4 too big"}, Outcome.UNSUITABLE, "smtp-552"),
    ({"MAIL": b"530 5.7.0 log in first"}, Outcome.MISCONFIGURED, "smtp-530"),
    ({"MAIL": b"451 4.3.0 later"}, Outcome.DEFERRED, "smtp-451"),
    (
        {"MAIL": b"451 Authentication failed: Maximum credits exceeded"},
        Outcome.MISCONFIGURED,
        "smtp-451",
    ),
    ({"MAIL": b"421 closing"}, Outcome.THROTTLED, "smtp-421"),
    ({"MAIL": b"454 Throttling failure"}, Outcome.THROTTLED, "smtp-454"),
    ({"RCPT": b"550 5.1.1 no such user"}, Outcome.REJECTED, "smtp-550"),
    ({"RCPT": b"554 5.7.1 relay access denied"}, Outcome.UNSUITABLE, "smtp-554"),
    ({"RCPT": b"450 4.2.0 greylisted"}, Outcome.DEFERRED, "smtp-450"),
    ({"RCPT": b"421 closing"}, Outcome.THROTTLED, "smtp-421"),
    ({"RCPT": b"454 later"}, Outcome.THROTTLED, "smtp-454"),
    ({"DATA": b"554 no valid recipients"}, Outcome.UNSUITABLE, "smtp-554"),
    ({"DATA": b"451 later"}, Outcome.DEFERRED, "smtp-451"),
    ({"DATA": b"421 closing"}, Outcome.THROTTLED, "smtp-421"),
    ({"MESSAGE": b"550 5.7.1 spam"}, Outcome.UNSUITABLE, "smtp-550"),
    ({"MESSAGE": b"552 5.3.4 too big"}, Outcome.UNSUITABLE, "smtp-552"),
    ({"MESSAGE": b"451 4.7.1 later"}, Outcome.DEFERRED, "smtp-451"),
    ({"MESSAGE": b"421 closing"}, Outcome.THROTTLED, "smtp-421"),
    ({"MESSAGE": b"454 later"}, Outcome.THROTTLED, "smtp-454"),
    ({"RCPT": b"450 credits exceeded"}, Outcome.MISCONFIGURED, "smtp-450"),
    ({"EHLO": b"502 what"}, Outcome.ACCEPTED, "smtp-250"),
    ({"GREETING": b"554 Too many connections"}, Outcome.THROTTLED, "smtp-554"),
    ({"GREETING": b"550 Your account is suspended"}, Outcome.MISCONFIGURED, "smtp-550"),
    ({"MAIL": b"550 5.1.1 sender unknown"}, Outcome.UNSUITABLE, "smtp-550"),
    ({"RCPT": b"550 relay not permitted"}, Outcome.UNSUITABLE, "smtp-550"),
    ({"RCPT": b"552 Too many recipients"}, Outcome.DEFERRED, "smtp-552"),
    ({"RCPT": b"553-5.7.1 policy\r\n553 no"}, Outcome.UNSUITABLE, "smtp-553"),
    ({"MESSAGE": b"550 5.1.1 no such user"}, Outcome.REJECTED, "smtp-550"),
    ({"MESSAGE": b"550 5.4.5 Daily sending quota exceeded"}, Outcome.MISCONFIGURED, "smtp-550"),
]


@pytest.mark.parametrize(
    "replies,outcome,code", STEPS, ids=[f"{list(r)[-1]}-{c}-{o}" for r, o, c in STEPS]
)
def test_the_step_and_the_reply_decide_the_outcome(
    replies: dict[str, bytes],
    outcome: Outcome,
    code: str,
    say: Say,
    make: Make,
    attempt: Attempts,
    plain: Email,
) -> None:
    server = say(polite_but(**{step: reply + b"\r\n" for step, reply in replies.items()}))
    result = make(server.port).send(plain, attempt())
    assert (result.outcome, result.code, result.answered) == (outcome, code, True)


LOST = [
    ("GREETING", Outcome.UNAVAILABLE, "connection_lost"),
    ("EHLO", Outcome.UNAVAILABLE, "connection_lost"),
    ("MAIL", Outcome.UNAVAILABLE, "connection_lost"),
    ("RCPT", Outcome.UNAVAILABLE, "connection_lost"),
    ("DATA", Outcome.UNAVAILABLE, "connection_lost"),
    ("MESSAGE", Outcome.UNKNOWN, "connection_lost"),
]


@pytest.mark.parametrize("step,outcome,code", LOST)
def test_a_connection_lost_is_unknown_only_after_the_final_dot(
    step: str, outcome: Outcome, code: str, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(**{step: None}))
    result = make(server.port).send(plain, attempt())
    assert result == SendResult(outcome=outcome, code=code, answered=False)


@pytest.mark.parametrize("step,outcome,_", LOST)
def test_a_server_that_drips_is_cut_at_the_deadline(
    step: str, outcome: Outcome, _: str, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    def answer(wire: Wire, line: str) -> bytes | None:
        if (line.partition(" ")[0] or "GREETING") != step:
            return polite(wire, line)
        wire.drip(b"250-" + b"x" * 400)
        return None

    result = make(say(answer).port).send(plain, attempt(SOON))
    assert result == SendResult(outcome=outcome, code="deadline", answered=False)


@pytest.mark.parametrize(
    "step,outcome", [("EHLO", Outcome.UNAVAILABLE), ("MESSAGE", Outcome.UNKNOWN)]
)
def test_a_read_that_takes_longer_than_the_configured_time(
    step: str, outcome: Outcome, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    def answer(wire: Wire, line: str) -> bytes | None:
        if line.startswith(step):
            wire.stopped.wait(30)
        return polite(wire, line)

    result = make(say(answer).port, timeout=1.0).send(plain, attempt())
    assert result == SendResult(outcome=outcome, code="read_timeout", answered=False)


@pytest.mark.parametrize(
    "step,outcome",
    [("MAIL", Outcome.UNAVAILABLE), ("RCPT", Outcome.UNAVAILABLE), ("MESSAGE", Outcome.UNKNOWN)],
)
def test_a_reply_that_is_not_smtp_is_not_taken_for_one(
    step: str, outcome: Outcome, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(**{step: b"HTTP/1.1 200 OK\r\n"}))
    result = make(server.port).send(plain, attempt())
    assert (result.outcome, result.code) == (outcome, "bad_answer")


def test_a_refused_connection_is_unavailable(make: Make, attempt: Attempts, plain: Email) -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    result = make(port).send(plain, attempt())
    assert result == SendResult(outcome=Outcome.UNAVAILABLE, code="connect_refused", answered=False)


def test_a_deadline_that_has_passed_sends_nothing(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite)
    result = make(server.port).send(plain, attempt(-1))
    assert result == SendResult(outcome=Outcome.UNAVAILABLE, code="deadline", answered=False)
    assert "DATA" not in server.lines


# --- some recipients


@pytest.fixture
def three(plain: Email) -> Email:
    to = ["good@example.net", "gone@example.net", "later@example.net"]
    return Email.from_mapping({**plain.to_mapping(), "to": to})


def test_recipients_that_the_server_does_not_take_are_told_apart(
    serve: Serve, make: Make, attempt: Attempts, three: Email
) -> None:
    server = serve()
    server.handler.rcpt = {
        "gone@example.net": "550 5.1.1 no such user",
        "later@example.net": "450 4.2.0 greylisted",
    }
    result = make(server.port).send(three, attempt())
    assert result.outcome is Outcome.ACCEPTED
    assert result.refused == ("gone@example.net",)
    assert result.pending == ("later@example.net",)
    assert server.letters[0].recipients == ["good@example.net"]


@pytest.mark.parametrize(
    "said",
    [
        "452 4.5.3 Error: too many recipients",
        "452 Too many recipients",
        "552 too many recipients",
        "550 5.5.3 Recipient limit reached",
        "452 4.5.3 Your message has too many recipients",
    ],
)
def test_recipients_that_are_too_many_for_one_transaction_go_in_the_next_at_once(
    said: str, serve: Serve, make: Make, attempt: Attempts, three: Email
) -> None:
    """The server is not asked about the others: it might take that for an error each."""
    server = serve()
    server.handler.rcpt = {"gone@example.net": said}
    made = make(server.port)
    result = made.send(three, attempt())
    assert (result.outcome, result.retry_after) == (Outcome.ACCEPTED, 0.0)
    assert result.pending == ("gone@example.net", "later@example.net")
    assert server.handler.steps.count("RCPT") == 2
    server.handler.rcpt.clear()
    rest = made.send(three, attempt(recipients=result.pending))
    assert (rest.outcome, rest.pending, rest.retry_after) == (Outcome.ACCEPTED, (), None)
    assert [letter.recipients for letter in server.letters] == [
        ["good@example.net"],
        ["gone@example.net", "later@example.net"],
    ]


@pytest.mark.parametrize(
    "said",
    [
        "452 4.2.2 Mailbox full",
        "452 4.3.1 Insufficient system storage",
        "452 4.5.3 Too many recipients this hour",
        "550 5.7.1 Too many recipients",
    ],
)
def test_who_is_put_off_for_another_reason_waits(
    said: str, serve: Serve, make: Make, attempt: Attempts, three: Email
) -> None:
    server = serve()
    server.handler.rcpt = {"gone@example.net": said}
    result = make(server.port).send(three, attempt())
    assert (result.outcome, result.retry_after) == (Outcome.ACCEPTED, None)
    assert result.pending == ("gone@example.net",)


def test_a_server_that_takes_nobody_has_not_had_too_many(
    serve: Serve, make: Make, attempt: Attempts, three: Email
) -> None:
    server = serve()
    server.handler.most = 0
    result = make(server.port).send(three, attempt())
    assert (result.outcome, result.retry_after) == (Outcome.DEFERRED, None)


def test_no_recipient_taken_and_one_put_off_is_deferred(
    serve: Serve, make: Make, attempt: Attempts, three: Email
) -> None:
    server = serve()
    server.handler.rcpt = {
        "good@example.net": "550 5.1.1 no such user",
        "gone@example.net": "550 5.1.1 no such user",
        "later@example.net": "450 4.2.0 greylisted",
    }
    result = make(server.port).send(three, attempt())
    assert (result.outcome, result.code) == (Outcome.DEFERRED, "smtp-450")
    assert result.refused == ("good@example.net", "gone@example.net")
    assert result.pending == ("later@example.net",)


def test_who_is_not_taken_by_this_server_only_may_be_by_another(
    serve: Serve, make: Make, attempt: Attempts, three: Email
) -> None:
    server = serve()
    server.handler.rcpt = {
        "gone@example.net": "550 5.1.1 no such user",
        "later@example.net": "554 5.7.1 Relay access denied",
    }
    result = make(server.port).send(three, attempt())
    assert result.outcome is Outcome.ACCEPTED
    assert (result.refused, result.pending) == (("gone@example.net",), ("later@example.net",))


@pytest.mark.parametrize(
    "other,outcome",
    [
        ("550 5.1.1 no such user", Outcome.REJECTED),
        ("554 5.7.1 Relay access denied", Outcome.UNSUITABLE),
        ("552 Too many recipients", Outcome.DEFERRED),
        ("550 hourly limit reached", Outcome.THROTTLED),
        ("550 Daily quota exceeded", Outcome.MISCONFIGURED),
    ],
)
def test_of_several_refusals_the_one_that_leaves_most_hope_counts(
    other: str, outcome: Outcome, serve: Serve, make: Make, attempt: Attempts, three: Email
) -> None:
    server = serve()
    server.handler.rcpt = {str(a): "550 5.1.1 no such user" for a in three.to}
    server.handler.rcpt["later@example.net"] = other
    assert make(server.port).send(three, attempt()).outcome is outcome


def test_all_recipients_refused_for_good_is_rejected(
    serve: Serve, make: Make, attempt: Attempts, three: Email
) -> None:
    server = serve()
    server.handler.rcpt = {str(a): "550 5.1.1 no such user" for a in three.to}
    result = make(server.port).send(three, attempt())
    assert (result.outcome, result.code) == (Outcome.REJECTED, "smtp-550")
    assert len(result.refused) == 3


def test_a_recipient_refused_before_the_message_was_put_off_stays_refused(
    serve: Serve, make: Make, attempt: Attempts, three: Email
) -> None:
    server = serve()
    server.handler.rcpt = {"gone@example.net": "550 5.1.1 no such user"}
    server.handler.replies = {"DONE": "451 4.7.1 later"}
    result = make(server.port).send(three, attempt())
    assert result.outcome is Outcome.DEFERRED
    assert result.refused == ("gone@example.net",)


def test_replies_that_name_the_recipient_do_not_get_into_the_detail(
    serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve()
    server.handler.rcpt = {"bob@example.net": "550 5.1.1 <bob@example.net>: Bob Receiver unknown"}
    made = make(server.port)
    result = sanitize(made.send(plain, attempt()), plain, made)
    assert "5.1.1" in result.detail
    assert "bob" not in result.detail.lower()


# --- the connection


def test_the_connection_is_used_again_also_after_a_refusal(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite)
    vendor = make(server.port)
    vendor.send(plain, attempt())
    for step in ("MAIL", "RCPT", "DATA"):
        server.answer = polite_but(**{step: b"550 no\r\n"})
        assert vendor.send(plain, attempt()).code == "smtp-550"
    server.answer = polite
    assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert server.connections == 1
    vendor.close()
    assert "QUIT" in server.lines


@pytest.mark.parametrize("reply", [b"421 idle for too long\r\n", None])
def test_a_connection_that_the_server_has_given_up_is_replaced_once(
    reply: bytes | None, say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite)
    vendor = make(server.port)
    vendor.send(plain, attempt())

    def over(wire: Wire, line: str) -> bytes | None:
        if line == "":
            server.answer = polite
        return reply if line.startswith("MAIL") else polite(wire, line)

    server.answer = over
    assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert server.connections == 2
    assert server.lines.count("MESSAGE") == 2


def test_a_connection_that_cannot_be_reset_is_given_up(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite_but(RCPT=b"550 no\r\n", RSET=None))
    vendor = make(server.port)
    assert vendor.send(plain, attempt()).outcome is Outcome.REJECTED
    server.answer = polite
    assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert server.connections == 2


def test_a_connection_that_was_closed_meanwhile_is_replaced(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite)
    vendor = make(server.port)
    vendor.send(plain, attempt())
    (idle,) = vendor._pool._idle
    idle.close()
    assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert server.connections == 2


def test_a_connection_that_idled_for_more_than_20_s_is_replaced(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite)
    vendor = make(server.port)
    now = [100.0]
    vendor.clock = lambda: now[0]
    counts = []
    for moment in (100.0, 119.0, 138.0, 159.0):
        now[0] = moment
        vendor.send(plain, attempt())
        counts.append(server.connections)
    assert counts == [1, 1, 1, 2]


def test_every_attempt_on_one_connection_has_its_own_deadline(
    say: Say, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = say(polite)
    vendor = make(server.port)
    vendor.send(plain, attempt())

    def slow(wire: Wire, line: str) -> bytes | None:
        if line == "MESSAGE":
            wire.stopped.wait(30)
        return polite(wire, line)

    server.answer = slow
    result = vendor.send(plain, attempt(SOON))
    assert (result.outcome, result.code) == (Outcome.UNKNOWN, "deadline")
    assert server.connections == 1


def test_an_ipv6_server_is_greeted_with_an_ipv6_literal(
    make: Make, attempt: Attempts, plain: Email, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    server = say(polite)
    genuine = socket.socket.getsockname
    monkeypatch.setattr(socket.socket, "getsockname", lambda sock: ("::1", *genuine(sock)[1:]))
    make(server.port).send(plain, attempt())
    assert "EHLO [IPv6:::1]" in server.lines


def test_a_mailbox_whose_domain_is_spelled_in_two_ways_gets_one_copy(
    serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve()
    to = ["bob@bücher.example", "bob@xn--bcher-kva.example", "bob@BÜCHER.example"]
    result = make(server.port).send(Email.from_mapping({**plain.to_mapping(), "to": to}), attempt())
    assert result.outcome is Outcome.ACCEPTED
    assert server.letters[0].recipients == ["bob@xn--bcher-kva.example"]

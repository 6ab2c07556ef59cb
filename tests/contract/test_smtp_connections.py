"""How the threads of a process share their connections to an SMTP server, and whose fault it is
when there is none.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from socket import socket
from typing import Any

import pytest

from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors import load
from mailqueue.vendors.base import Vendor
from mailqueue.vendors.smtp import Smtp
from mailqueue.vendors.wire import smtp_pool
from tests.contract.conftest import Attempts
from tests.vendor_servers import HOST, ScriptedSmtp, SmtpServer, Wire, polite, polite_but
from tests.waiting import wait_until

Make = Callable[..., Vendor]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def make(stack: ExitStack) -> Make:
    """Each call makes the vendor of one more thread."""

    def make(port: int, **keys: Any) -> Vendor:
        keys = {"host": HOST, "port": port, "tls": "none", **keys}
        made = load(VendorConfig(name="first", type="smtp", keys=keys), simulated=False)
        stack.callback(made.close)
        return made

    return make


def sent_by(vendors: list[Vendor], email: Email, attempt: Attempts, each: int) -> list[SendResult]:
    """Every vendor, in a thread of its own, sends the e-mail so many times."""

    def work(vendor: Vendor) -> list[SendResult]:
        return [vendor.send(email, attempt()) for _ in range(each)]

    with ThreadPoolExecutor(len(vendors)) as pool:
        return [result for results in pool.map(work, vendors) for result in results]


def test_a_server_with_room_for_fewer_connections_than_senders_gets_every_email(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = stack.enter_context(SmtpServer(room=4))
    results = sent_by([make(server.port) for _ in range(12)], plain, attempt, each=5)
    assert {result.outcome for result in results} == {Outcome.ACCEPTED}
    assert len(server.letters) == 60


@pytest.mark.parametrize(
    "reply",
    [
        b"421 4.7.0 too many messages in this connection\r\n",
        b"452 4.5.3 Too many messages in this session\r\n",
        b"550 Exceeded the maximum number of messages for one session\r\n",
        b"450 4.7.1 max 20 messages per connection\r\n",
    ],
)
def test_a_connection_that_has_had_its_share_of_emails_is_replaced(
    reply: bytes, stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    """Each connection takes one; the answer is nobody's fault, and no e-mail's."""
    taken = Counter[socket]()

    def one_each(wire: Wire, line: str) -> bytes | None:
        if line.startswith("MAIL") and taken[wire.sock]:
            return reply
        taken[wire.sock] += line == "MESSAGE"
        return polite(wire, line)

    server = stack.enter_context(ScriptedSmtp(one_each))
    vendor = make(server.port)
    results = [vendor.send(plain, attempt()).outcome for _ in range(3)]
    assert results == [Outcome.ACCEPTED] * 3
    assert (server.connections, server.lines.count("MESSAGE")) == (3, 3)


@pytest.mark.parametrize("step", ["RCPT", "DATA", "MESSAGE"])
@pytest.mark.parametrize("code", [b"421 4.7.0", b"452 4.5.3", b"554 5.5.0"])
def test_a_share_that_is_used_up_in_the_middle_of_an_email_is_not_held_against_the_server(
    step: str, code: bytes, stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    steps = Counter[str]()

    def second(wire: Wire, line: str) -> bytes | None:
        said = line.partition(" ")[0]
        steps[said] += 1
        if said == step and steps[said] == 2:
            return code + b" too many messages in this session\r\n"
        return polite(wire, line)

    vendor = make(stack.enter_context(ScriptedSmtp(second)).port)
    results = [vendor.send(plain, attempt()) for _ in range(3)]
    outcomes = [Outcome.ACCEPTED, Outcome.THROTTLED, Outcome.ACCEPTED]
    assert [(r.outcome, r.our_fault) for r in results] == [
        (outcome, outcome is Outcome.THROTTLED) for outcome in outcomes
    ]


def test_a_new_connection_that_takes_no_email_is_not_replaced(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    said = b"452 4.5.3 Too many messages in this session\r\n"
    server = stack.enter_context(ScriptedSmtp(polite_but(MAIL=said)))
    assert make(server.port).send(plain, attempt()).outcome is Outcome.THROTTLED
    assert server.connections == 1


def test_no_more_connections_are_opened_than_configured(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = stack.enter_context(ScriptedSmtp(polite))
    vendors = [make(server.port, connections=2) for _ in range(8)]
    results = sent_by(vendors, plain, attempt, each=5)
    assert {result.outcome for result in results} == {Outcome.ACCEPTED}
    assert server.connections <= 2


def test_a_connection_that_is_idle_serves_another_thread(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = stack.enter_context(ScriptedSmtp(polite))
    one, two = make(server.port), make(server.port)
    for vendor in (one, two, one):
        assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert server.connections == 1
    one.close()
    assert "QUIT" not in server.lines
    two.close()
    assert "QUIT" in server.lines


def test_other_keys_are_another_server(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = stack.enter_context(ScriptedSmtp(polite))
    for name in ("a.example.org", "b.example.org"):
        assert make(server.port, helo=name).send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert server.connections == 2


@pytest.mark.parametrize("step", ["GREETING", "EHLO"])
def test_421_before_any_connection_works_is_the_servers_own(
    step: str, stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = stack.enter_context(ScriptedSmtp(polite_but(**{step: b"421 4.3.2 come later\r\n"})))
    result = make(server.port).send(plain, attempt())
    assert (result.outcome, result.code, result.our_fault) == (Outcome.THROTTLED, "smtp-421", False)
    assert "come later" in result.detail


class Held:
    """A server that answers the first message only when it is let go, and then none as ``step``."""

    def __init__(self, **replies: bytes | None) -> None:
        self.let_go = threading.Event()
        self.busy = threading.Event()
        self._later = polite_but(**replies)
        self._first: Wire | None = None

    def __call__(self, wire: Wire, line: str) -> bytes | None:
        self._first = self._first or wire
        if wire is not self._first:
            return self._later(wire, line)
        if line == "MESSAGE":
            self.busy.set()
            self.let_go.wait(10)
        return polite(wire, line)


UNWELCOME: list[dict[str, bytes | None]] = [
    {"GREETING": b"421 too many connections\r\n"},
    {"GREETING": b"554 no service\r\n"},
    {"GREETING": None},
    {"EHLO": b"421 later\r\n"},
]


@pytest.mark.parametrize("replies", UNWELCOME)
@pytest.mark.parametrize("patience", [0.05, 5.0])
def test_a_server_with_which_a_connection_works_is_not_blamed_for_taking_no_more(
    replies: dict[str, bytes | None],
    patience: float,
    stack: ExitStack,
    make: Make,
    attempt: Attempts,
    plain: Email,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smtp_pool, "WAIT_SECONDS", patience)
    held = Held(**replies)
    server = stack.enter_context(ScriptedSmtp(held))
    one, two = make(server.port), make(server.port)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.send, plain, attempt())
        assert held.busy.wait(60)
        second = pool.submit(two.send, plain, attempt())
        if patience < 1:
            assert second.result(60) == smtp_pool.BUSY
        held.let_go.set()
        assert first.result(60).outcome is Outcome.ACCEPTED
        if patience > 1:
            assert second.result(60).outcome is Outcome.ACCEPTED
    assert (smtp_pool.BUSY.outcome, smtp_pool.BUSY.our_fault) == (Outcome.THROTTLED, True)


def test_too_many_connections_said_later_on_are_our_own_doing_while_others_work(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    held = Held(MESSAGE=b"432 4.3.2 Concurrent connections limit exceeded\r\n")
    server = stack.enter_context(ScriptedSmtp(held))
    one, two = make(server.port), make(server.port)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(one.send, plain, attempt())
        assert held.busy.wait(60)
        crowded = two.send(plain, attempt())
        held.let_go.set()
        assert first.result(60).outcome is Outcome.ACCEPTED
    assert (crowded.outcome, crowded.our_fault) == (Outcome.THROTTLED, True)


def test_after_a_failure_the_place_is_free_for_another_connection(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = stack.enter_context(ScriptedSmtp(polite))
    vendor = make(server.port, connections=1)
    for step in ("GREETING", "EHLO", "MAIL", "RCPT", "DATA", "MESSAGE"):
        server.answer = polite_but(**{step: None})
        assert vendor.send(plain, attempt()).outcome is not Outcome.ACCEPTED
        server.answer = polite
        assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
        vendor.close()


def test_connections_that_the_server_closed_are_all_replaced(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    held = Held()
    server = stack.enter_context(ScriptedSmtp(held))
    one, two = make(server.port), make(server.port)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(one.send, plain, attempt())
        assert held.busy.wait(60)
        assert two.send(plain, attempt()).outcome is Outcome.ACCEPTED
        held.let_go.set()
        first.result(60)
    assert server.connections == 2
    server.hang_up()
    assert one.send(plain, attempt()).outcome is Outcome.ACCEPTED
    wait_until(lambda: server.connections == 3, what="a third connection")


def test_a_connection_whose_descriptor_is_gone_leaves_its_place_to_another(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = stack.enter_context(ScriptedSmtp(polite))
    vendor = make(server.port, connections=1)
    assert isinstance(vendor, Smtp)
    vendor.send(plain, attempt())
    sock = vendor._pool._idle[0].sock
    assert sock is not None
    sock.close()
    assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert server.connections == 2


def test_connections_that_are_not_needed_any_more_are_closed(
    stack: ExitStack, make: Make, attempt: Attempts, plain: Email
) -> None:
    held = Held()
    server = stack.enter_context(ScriptedSmtp(held))
    one, two = make(server.port), make(server.port)
    assert isinstance(one, Smtp)
    now = [100.0]
    assert isinstance(two, Smtp)
    one.clock = two.clock = lambda: now[0]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(two.send, plain, attempt())
        assert held.busy.wait(60)
        one.send(plain, attempt())
        held.let_go.set()
        first.result(60)
    assert len(one._pool._idle) == 2
    for moment in (110.0, 125.0, 140.0):
        now[0] = moment
        one.send(plain, attempt())
    assert len(one._pool._idle) == 1

"""The contract that every vendor with an HTTP API keeps, on real sockets."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Email
from mailqueue.vendors.answers import sanitize
from mailqueue.vendors.http import HttpVendor
from tests.contract.case import Carried, Case, Row
from tests.contract.cases import CASES
from tests.contract.conftest import EMAIL_ID, MESSAGE_ID, Attempts, Vendors
from tests.vendor_servers import (
    HOST,
    Behaviour,
    HttpServer,
    Reply,
    Wire,
    close,
    cut_body,
    cut_chunks,
    drip_body,
    drip_headers,
    hang,
    reset,
    say,
)

SOON = 0.3
AT_ONCE = 0.05  # where it does not matter how far an attempt comes
HTML = {"Content-Type": "text/html"}
PAGE = b"<html><title>Blocked</title></html>"

Serve = Callable[..., HttpServer]
Make = Callable[..., HttpVendor]

each_vendor = pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(HttpServer(*args, **kwargs))


@pytest.fixture
def make(vendor: Vendors) -> Make:
    def make(case: Case, url: str, **fields: Any) -> HttpVendor:
        made = vendor(case.type, base_url=url, keys=case.keys, **fields)
        assert isinstance(made, HttpVendor)
        return made

    return make


# --- what is sent


@each_vendor
def test_an_accepted_email_is_posted_once_with_the_key_and_gives_the_vendors_id(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(case.accepted)
    result = make(case, server.url).send(plain, attempt())
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", case.path)
    assert case.authorized(request)
    assert request.headers["user-agent"].startswith("mailqueue/")
    assert result.outcome is Outcome.ACCEPTED
    assert result.message_id == case.message_id
    assert result.code == str(case.accepted.status)
    assert result.answered


@each_vendor
def test_everything_that_an_email_holds_arrives(
    case: Case, serve: Serve, make: Make, attempt: Attempts, rich: Email
) -> None:
    rich = _narrowed(rich, case)
    server = serve(case.accepted)
    vendor = make(case, server.url)
    assert vendor.can_carry(rich) is None
    assert vendor.send(rich, attempt()).outcome is Outcome.ACCEPTED
    found = case.parse(server.requests[0])
    expected = _expected(rich, case, vendor)
    assert _people_once(found) == _people_once(expected)
    assert replace(found, to=(), cc=(), bcc=()) == replace(expected, to=(), cc=(), bcc=())


def _narrowed(rich: Email, case: Case) -> Email:
    return Email.from_mapping({**rich.to_mapping(), **case.narrowed})


def _expected(email: Email, case: Case, vendor: HttpVendor) -> Carried:
    def people(addresses: tuple[Address, ...]) -> list[tuple[str, str]]:
        return [(address.name, address.ascii) for address in addresses]

    files = [(f.content_id, f.filename, f.content_type, f.content) for f in email.attachments]
    return Carried(
        sender=(email.from_.name if case.sender_names else "", email.from_.ascii),
        to=people(email.to),
        cc=people(email.cc),
        bcc=people(email.bcc),
        reply_to=people(email.reply_to),
        subject=email.subject,
        text=email.text,
        html=email.html,
        headers=email.headers,
        attachments=[(name, kind, content) for cid, name, kind, content in files if not cid],
        inline=[(cid, kind, content) for cid, _, kind, content in files if cid],
        tags=list(vendor.tags(email)),
        metadata=vendor.metadata(email),
        email_id=EMAIL_ID,
        message_id=MESSAGE_ID if case.own_message_id else None,
    )


def _people_once(carried: Carried) -> list[tuple[str, str]]:
    """Who gets it, and where each is shown first: some vendors refuse an address that is twice."""
    found: dict[str, str] = {}
    for field in ("to", "cc", "bcc"):
        for _, address in getattr(carried, field):
            found.setdefault(address.lower(), field)
    return sorted(found.items())


@each_vendor
def test_the_same_email_and_attempt_make_the_same_bytes_everywhere(
    case: Case, serve: Serve, make: Make, attempt: Attempts, rich: Email
) -> None:
    server = serve(case.accepted)
    rebuilt = Email.from_document(rich.to_mapping())
    for email in (rich, rebuilt):
        make(case, server.url).send(email, attempt())
    first, second = server.requests
    assert first.body == second.body
    constant = first.headers.keys() - set(case.dated)
    assert {n: first.headers[n] for n in constant} == {n: second.headers[n] for n in constant}


@each_vendor
def test_the_vendors_own_from_replaces_the_sender(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(case.accepted)
    make(case, server.url, from_="Desk <desk@example.com>").send(plain, attempt())
    name = "Desk" if case.sender_names else ""
    assert case.parse(server.requests[0]).sender == (name, "desk@example.com")


@each_vendor
def test_vendor_options_of_the_config_and_of_the_email_reach_the_request(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    extra, seen = case.extra
    server = serve(case.accepted)
    make(case, server.url, options={**extra, "simulated_delay": 9}).send(plain, attempt())
    own = Email.from_mapping({**plain.to_mapping(), "vendor_options": {"first": extra}})
    make(case, server.url).send(own, attempt())
    other = Email.from_mapping({**plain.to_mapping(), "vendor_options": {"second": extra}})
    make(case, server.url).send(other, attempt())
    assert [seen(request) for request in server.requests] == [True, True, False]
    assert b"simulated_delay" not in server.requests[0].body


@each_vendor
def test_the_sandbox_is_asked_for_only_when_configured(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(case.accepted)
    make(case, server.url).send(plain, attempt())
    if case.sandboxed is None:
        with pytest.raises(ConfigError, match=r"vendors\.first\.sandbox: .* has no sandbox"):
            make(case, server.url, sandbox=True)
        return
    options = case.sandbox_options
    make(case, server.url, sandbox=True, options=options).send(plain, attempt())
    assert [case.sandboxed(request) for request in server.requests] == [False, True]


@each_vendor
def test_requests_keep_to_the_vendors_closed_specification(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email, rich: Email
) -> None:
    specs = os.environ.get("MAILQUEUE_VENDOR_SPECS")
    if not specs:
        pytest.skip("MAILQUEUE_VENDOR_SPECS names no folder")
    server = serve(case.accepted)
    options, sandbox = {**case.extra[0], **case.sandbox_options}, case.sandboxed is not None
    vendor = make(case, server.url, sandbox=sandbox, options=options)
    vendor.send(_narrowed(rich, case), attempt())
    vendor.send(plain, attempt())
    assert [case.violations(Path(specs), request) for request in server.requests] == [[], []]


@each_vendor
def test_a_header_that_could_inject_another_is_refused_before_anything_is_sent(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(case.accepted)
    vendor = make(case, server.url)
    for subject in ("A\r\nBcc: i@example.org", "A =?utf-8?q?=0D=0ABcc:_i@example.org?="):
        stored = Email.from_document({**plain.to_mapping(), "subject": subject})
        result = vendor.send(stored, attempt())
        assert (result.outcome, result.code) == (Outcome.REJECTED, "header_injection")
    assert server.connections == 0


@each_vendor
def test_some_recipients_only_is_not_for_vendors_that_show_the_envelope(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(case.accepted)
    some = attempt(recipients=("bob@example.net",))
    result = make(case, server.url).send(plain, some)
    assert (result.outcome, result.code) == (Outcome.UNSUITABLE, "envelope")
    assert server.connections == 0


# --- what the answer means


def _rows() -> list[Any]:
    return [
        pytest.param(case, row, id=f"{case.type}-{row.name}".replace(" ", "_"))
        for case in CASES
        for row in case.rows
    ]


@pytest.mark.parametrize("case,row", _rows())
def test_every_row_of_the_vendors_table(
    case: Case, row: Row, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(row.reply)
    email = Email.from_mapping({**plain.to_mapping(), **row.email})
    options = {**row.options, **(case.sandbox_options if row.sandbox else {})}
    result = make(case, server.url, sandbox=row.sandbox, options=options).send(email, attempt())
    assert result.outcome is row.outcome
    assert result.code == str(row.reply.status)
    assert result.retry_after == row.retry_after
    assert result.message_id == row.message_id
    assert (row.detail or "") in result.detail
    assert (result.refused, result.pending) == (tuple(row.refused), tuple(row.pending))
    assert (result.quota_held, result.answered) == (row.quota_held, True)


COMMON = [
    (302, {"Location": "http://127.0.0.1:1/"}, b"", Outcome.MISCONFIGURED),
    (307, {"Location": "/elsewhere"}, b"", Outcome.MISCONFIGURED),
    (204, {}, b"", Outcome.UNKNOWN),
    (200, HTML, PAGE, Outcome.UNKNOWN),
    (400, HTML, PAGE, Outcome.UNAVAILABLE),
    (400, {}, b"", Outcome.UNSUITABLE),
    (401, HTML, PAGE, Outcome.MISCONFIGURED),
    (402, {}, b"", Outcome.MISCONFIGURED),
    (403, HTML, PAGE, Outcome.UNAVAILABLE),
    (403, {}, b"", Outcome.MISCONFIGURED),
    (404, {}, b"", Outcome.MISCONFIGURED),
    (405, {}, b"", Outcome.MISCONFIGURED),
    (406, {}, b"", Outcome.MISCONFIGURED),
    (408, {}, b"", Outcome.UNKNOWN),
    (413, HTML, PAGE, Outcome.UNSUITABLE),
    (415, {}, b"", Outcome.MISCONFIGURED),
    (422, {}, b"[]", Outcome.UNSUITABLE),
    (429, HTML, PAGE, Outcome.THROTTLED),
    (500, {}, b"", Outcome.UNAVAILABLE),
    (502, HTML, PAGE, Outcome.UNKNOWN),
    (503, HTML, PAGE, Outcome.UNAVAILABLE),
    (504, {}, b"", Outcome.UNKNOWN),
    (529, {}, b"\xff{", Outcome.UNAVAILABLE),
]


@each_vendor
@pytest.mark.parametrize(
    "status,headers,body,suspect",
    [
        (401, HTML, PAGE, False),
        (402, HTML, PAGE, False),
        (403, HTML, PAGE, True),
        (404, {}, b"", False),
        (405, HTML, PAGE, True),
        (406, HTML, PAGE, True),
        (429, HTML, PAGE, False),
    ],
)
def test_a_page_may_be_a_firewalls_answer_to_this_very_email(
    case: Case,
    status: int,
    headers: dict[str, str],
    body: bytes,
    suspect: bool,
    serve: Serve,
    make: Make,
    attempt: Attempts,
    plain: Email,
) -> None:
    server = serve(Reply(status, headers, body))
    result = make(case, server.url).send(plain, attempt())
    assert result.content_suspect is suspect


@each_vendor
@pytest.mark.parametrize("status,headers,body,outcome", COMMON)
def test_a_status_that_no_row_names_means_the_same_at_every_vendor(
    case: Case,
    status: int,
    headers: dict[str, str],
    body: bytes,
    outcome: Outcome,
    serve: Serve,
    make: Make,
    attempt: Attempts,
    plain: Email,
) -> None:
    server = serve(Reply(status, headers, body))
    result = make(case, server.url).send(plain, attempt())
    assert (result.outcome, result.code) == (outcome, str(status))
    assert len(server.requests) == 1
    assert "<" not in result.detail


@each_vendor
@pytest.mark.parametrize(
    "value,seconds",
    [
        ("120", 120.0),
        ("120, 120", 120.0),
        ("1.5", 1.5),
        ("Mon, 20 Dec 2021 20:33:21 GMT", 120.0),
        ("Mon, 20 Dec 2021 20:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-1", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_by_the_vendors_clock(
    case: Case,
    value: str,
    seconds: float | None,
    serve: Serve,
    make: Make,
    attempt: Attempts,
    plain: Email,
) -> None:
    headers = {"Retry-After": value, "Date": "Mon, 20 Dec 2021 20:31:21 GMT"}
    server = serve(Reply(429, headers, b"{}"))
    assert make(case, server.url).send(plain, attempt()).retry_after == seconds


# --- no answer, or half of one


@each_vendor
def test_a_refused_connection_is_unavailable_and_surely_not_sent(
    case: Case, make: Make, attempt: Attempts, plain: Email
) -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    result = make(case, f"http://{HOST}:{port}").send(plain, attempt())
    assert result == SendResult(outcome=Outcome.UNAVAILABLE, code="connect_refused", answered=False)


@each_vendor
def test_a_host_name_that_is_not_resolved_is_unavailable(
    case: Case,
    make: Make,
    attempt: Attempts,
    plain: Email,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    result = make(case, "https://api.vendor.invalid").send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.UNAVAILABLE, "dns")
    assert not result.answered


@each_vendor
def test_a_connection_that_is_not_made_in_time_is_unavailable(
    case: Case, make: Make, attempt: Attempts, plain: Email
) -> None:
    with socket.socket() as full:
        full.bind((HOST, 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):  # takes the only place in the queue
            url = f"http://{HOST}:{full.getsockname()[1]}"
            result = make(case, url).send(plain, attempt(AT_ONCE))
    assert result.outcome is Outcome.UNAVAILABLE
    assert result.code in {"connect_timeout", "deadline"}


@pytest.fixture
def tls(authority: trustme.CA) -> Callable[[str], ssl.SSLContext]:
    def context(host: str) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host).configure_cert(made)
        return made

    return context


@each_vendor
def test_a_certificate_that_nobody_trusts_is_unavailable_and_nothing_is_sent(
    case: Case,
    serve: Serve,
    make: Make,
    attempt: Attempts,
    plain: Email,
    tls: Callable[[str], ssl.SSLContext],
) -> None:
    server = serve(case.accepted, tls=tls(HOST))
    result = make(case, server.url).send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.UNAVAILABLE, "tls")
    assert not result.answered
    assert server.requests == []


@each_vendor
def test_a_trusted_certificate_counts_for_its_own_host_only(
    case: Case,
    serve: Serve,
    make: Make,
    attempt: Attempts,
    plain: Email,
    tls: Callable[[str], ssl.SSLContext],
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    codes = []
    for host in (HOST, "other.example.org"):
        vendor = make(case, serve(case.accepted, tls=tls(host)).url)
        vendor.transport.ca_file = str(trusted)
        codes.append(vendor.send(plain, attempt()).code)
    assert codes == [str(case.accepted.status), "tls"]


@each_vendor
def test_a_tls_handshake_that_hangs_ends_at_the_deadline_and_was_surely_not_sent(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    def silent(wire: Wire) -> None:
        wire.stopped.wait(30)

    server = serve(case.accepted, on_connect=silent)
    vendor = make(case, server.url.replace("http:", "https:"))
    result = vendor.send(plain, attempt(SOON))
    assert result == SendResult(outcome=Outcome.UNAVAILABLE, code="deadline", answered=False)


@each_vendor
@pytest.mark.parametrize("behaviour", [reset, close], ids=["reset", "close"])
def test_a_connection_lost_after_the_request_is_unknown(
    case: Case, behaviour: Behaviour, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(behaviour)
    result = make(case, server.url).send(plain, attempt())
    assert result == SendResult(outcome=Outcome.UNKNOWN, code="connection_lost", answered=False)
    assert len(server.requests) == 1


@each_vendor
def test_a_connection_lost_before_the_server_reads_is_unknown_all_the_same(
    case: Case, serve: Serve, make: Make, attempt: Attempts, rich: Email
) -> None:
    server = serve(case.accepted, on_connect=Wire.reset_unread)
    result = make(case, server.url).send(rich, attempt())
    assert (result.outcome, result.code) == (Outcome.UNKNOWN, "connection_lost")


@each_vendor
def test_a_server_that_hangs_is_unknown_at_the_deadline(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(hang)
    result = make(case, server.url).send(plain, attempt(SOON))
    assert result == SendResult(outcome=Outcome.UNKNOWN, code="deadline", answered=False)


@each_vendor
def test_a_read_that_takes_longer_than_the_configured_time_is_unknown(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(hang)
    result = make(case, server.url, timeout=0.1).send(plain, attempt())
    assert result == SendResult(outcome=Outcome.UNKNOWN, code="read_timeout", answered=False)


@each_vendor
def test_headers_that_drip_are_cut_at_the_deadline(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(drip_headers(case.accepted))
    result = make(case, server.url).send(plain, attempt(SOON))
    assert result.outcome in {Outcome.UNKNOWN, Outcome.ACCEPTED}
    # The status line came before the deadline: a vendor may take that for its word.
    assert case.told_by_status or (result.code, result.answered) == ("deadline", False)


CUTS = [
    pytest.param(drip_body, SOON, "deadline", id="drip"),
    pytest.param(cut_body, 5.0, "connection_lost", id="cut"),
    pytest.param(cut_chunks, 5.0, "connection_lost", id="chunks"),
]


@each_vendor
@pytest.mark.parametrize("cut,seconds,code", CUTS)
def test_an_accepting_status_without_its_whole_body(
    case: Case,
    cut: Callable[[Reply], Behaviour],
    seconds: float,
    code: str,
    serve: Serve,
    make: Make,
    attempt: Attempts,
    plain: Email,
) -> None:
    body = case.accepted.body or b'{"any": "thing"}'
    server = serve(cut(replace(case.accepted, body=body)))
    result = make(case, server.url).send(plain, attempt(seconds))
    if case.told_by_status:
        assert result.outcome is Outcome.ACCEPTED
    else:
        assert (result.outcome, result.code) == (Outcome.UNKNOWN, code)
        assert not result.answered


@each_vendor
def test_a_refusal_whose_body_is_cut_is_told_by_its_status(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(cut_body(Reply(503, HTML, PAGE)))
    result = make(case, server.url).send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.UNAVAILABLE, "503")


@each_vendor
@pytest.mark.parametrize(
    "octets", [b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b"HTTP/1.1 abc OK\r\n\r\n"]
)
def test_an_answer_that_is_not_http_is_unknown(
    case: Case, octets: bytes, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(say(octets))
    result = make(case, server.url).send(plain, attempt())
    assert result == SendResult(outcome=Outcome.UNKNOWN, code="bad_answer", answered=False)


@each_vendor
def test_a_body_without_end_is_not_read_to_its_end(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(Reply(500, {}, b"x" * 3_000_000))
    vendor = make(case, server.url)
    result = vendor.send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.UNAVAILABLE, "500")
    server.behaviour = case.accepted
    assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED


@each_vendor
def test_a_deadline_that_has_passed_sends_nothing(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(case.accepted)
    result = make(case, server.url).send(plain, attempt(-1))
    assert result == SendResult(outcome=Outcome.UNAVAILABLE, code="deadline", answered=False)
    assert server.requests == []


# --- the connection


@each_vendor
def test_the_connection_is_used_again(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(case.accepted)
    vendor = make(case, server.url)
    for _ in range(3):
        assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert [request.connection for request in server.requests] == [1, 1, 1]


@each_vendor
def test_a_connection_that_idled_for_more_than_20_s_is_replaced(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(case.accepted)
    vendor = make(case, server.url)
    now = [0.0]
    vendor.transport.clock = lambda: now[0]
    for moment in (0.0, 19.0, 38.0, 59.0):
        now[0] = moment
        vendor.send(plain, attempt())
    assert [request.connection for request in server.requests] == [1, 1, 1, 2]


@each_vendor
def test_after_a_failure_the_next_email_has_a_new_connection(
    case: Case, serve: Serve, make: Make, attempt: Attempts, plain: Email
) -> None:
    server = serve(hang)
    vendor = make(case, server.url)
    assert vendor.send(plain, attempt(SOON)).code == "deadline"
    server.behaviour = case.accepted
    assert vendor.send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert [request.connection for request in server.requests] == [1, 2]


@each_vendor
def test_neither_netrc_nor_a_proxy_of_the_environment_is_used(
    case: Case,
    serve: Serve,
    make: Make,
    attempt: Attempts,
    plain: Email,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", f"http://{HOST}:1")
    server = serve(case.accepted)
    assert make(case, server.url).send(plain, attempt()).outcome is Outcome.ACCEPTED
    assert case.authorized(server.requests[0])


# --- what is said about it


@each_vendor
def test_what_a_vendor_quotes_back_does_not_get_into_the_detail(
    case: Case,
    serve: Serve,
    make: Make,
    attempt: Attempts,
    plain: Email,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    words = (
        f"to Bob Receiver <bob@example.net>: 'Your private subject' someone@else.org {case.secret}"
    )
    body = b'{"message": "%b", "errors": [{"message": "%b"}]}' % (
        (words * 3).encode(),
        (words * 3).encode(),
    )
    server = serve(Reply(400, {"Content-Type": "application/json"}, body))
    vendor = make(case, server.url)
    result = sanitize(vendor.send(plain, attempt()), plain, vendor)
    said = f"{result!r} {vendor!r} {vendor.config!r} {caplog.text}"
    for private in ("bob", "Receiver", "example.net", "else.org", "private", case.secret):
        assert private not in said
    assert 0 < len(result.detail) <= 200

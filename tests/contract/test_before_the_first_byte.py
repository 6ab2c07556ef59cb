"""What is decided before a byte goes out: every valid e-mail can be written, and what fails here
surely was not sent.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable
from contextlib import ExitStack
from email import message_from_bytes, policy
from typing import Any

import pytest

from mailqueue.errors import InvalidEmail
from mailqueue.lifecycle.outcomes import Outcome
from mailqueue.message import Email
from mailqueue.vendors import base, smtp
from mailqueue.vendors.base import Vendor
from mailqueue.vendors.http import HttpVendor
from mailqueue.vendors.smtp import Smtp
from tests.contract.case import Case
from tests.contract.cases import CASES
from tests.contract.conftest import Attempts, Vendors
from tests.vendor_servers import HOST, HttpServer, SmtpServer

each_vendor = pytest.mark.parametrize("case", CASES, ids=[case.type for case in CASES])
SES = next(case for case in CASES if case.type == "ses")

PEOPLE = [f"Jörg Müller {n} <j{n}@example.net>" for n in range(146)]
LONG: dict[str, dict[str, Any]] = {
    "many names to encode": {"to": PEOPLE},
    "many names to encode in cc": {"cc": PEOPLE},
    "many names to encode in reply-to": {"reply_to": PEOPLE},
    "a subject to encode": {"subject": "Ж" * 2201},
    "a subject of words": {"subject": "жёлтый " * 2000 + "дом"},
    "a header to encode": {"headers": {"X-Note": "Ж" * 3000}},
    "a plain header": {"headers": {"X-Note": "note " * 5000 + "end"}},
    "a header in one piece": {"headers": {"X-Note": "x" * 5000}},
    "what looks like an encoded word": {"subject": "=?utf-8?q?x?= " * 150 + "end"},
    "a file name to encode": {"attachments": [{"filename": "Ж" * 200 + ".txt", "content": b"x"}]},
    "a file name": {"attachments": [{"filename": "x" * 250, "content": b"x"}]},
}
each_long = pytest.mark.parametrize("fields", LONG.values(), ids=LONG)


def through_smtp(email: Email, vendor: Vendors, attempt: Attempts) -> bytes:
    with SmtpServer() as server:
        made = vendor("smtp", keys={"host": HOST, "port": server.port, "tls": "none"})
        assert made.send(email, attempt()).outcome is Outcome.ACCEPTED
        made.close()
        return server.letters[0].octets


def through_ses(email: Email, vendor: Vendors, attempt: Attempts) -> bytes:
    with HttpServer(SES.accepted) as server:
        made = vendor("ses", base_url=server.url, keys=SES.keys)
        assert made.send(email, attempt()).outcome is Outcome.ACCEPTED
        made.close()
        return b64decode(json.loads(server.requests[0].body)["Content"]["Raw"]["Data"])


@each_long
@pytest.mark.parametrize("through", [through_smtp, through_ses])
def test_however_much_there_is_to_encode_it_goes_out_and_reads_back(
    through: Callable[[Email, Vendors, Attempts], bytes],
    fields: dict[str, Any],
    vendor: Vendors,
    attempt: Attempts,
    plain: Email,
) -> None:
    made = Email.from_mapping({**plain.to_mapping(), **fields})
    email = Email.from_document(made.to_mapping())  # as a consumer reads it
    message = message_from_bytes(through(email, vendor, attempt), policy=policy.default)
    assert message["Subject"] == email.subject
    names = [address.display_name for address in message["To"].addresses]
    assert names == [person.name for person in email.to]
    for name, value in email.headers.items():
        assert message[name] == value
    for part, file in zip(message.iter_attachments(), email.attachments, strict=True):
        assert part.get_filename() == file.filename


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a bug of ours")


def unsayable(*_: Any, **__: Any) -> Any:
    raise ValueError("a line break in a command")


def invalid(*_: Any, **__: Any) -> Any:
    raise InvalidEmail("subject", "is unsafe")


def check(made: Vendor, plain: Email, attempt: Attempts, kind: str) -> None:
    result = made.send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.UNSUITABLE, f"raised_{kind}")
    assert (result.our_fault, result.answered) == (True, False)


BUGS = [(broken, "RuntimeError"), (invalid, "InvalidEmail")]


@each_vendor
@pytest.mark.parametrize("bug,kind", BUGS)
def test_what_an_http_vendor_cannot_build_was_not_sent_and_is_not_its_fault(
    bug: Any,
    kind: str,
    case: Case,
    vendor: Vendors,
    attempt: Attempts,
    plain: Email,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(HttpServer(case.accepted))
        made: HttpVendor = vendor(case.type, base_url=server.url, keys=case.keys)
        stack.callback(made.close)
        assert made.send(plain, attempt()).outcome is Outcome.ACCEPTED  # a byte of another e-mail
        monkeypatch.setattr(made, "build", bug)
        check(made, plain, attempt, kind)
        assert len(server.requests) == 1


@pytest.mark.parametrize("bug,kind", BUGS)
def test_what_the_smtp_vendor_cannot_write_was_not_sent_and_is_not_its_fault(
    bug: Any,
    kind: str,
    vendor: Vendors,
    attempt: Attempts,
    plain: Email,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "mime", bug)
    made: Smtp = vendor("smtp", keys={"host": HOST, "port": 1, "tls": "none"})
    check(made, plain, attempt, kind)


def test_a_bug_between_the_commands_of_smtp_is_not_called_unknown(
    vendor: Vendors, attempt: Attempts, plain: Email, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SmtpServer() as server:
        made: Smtp = vendor("smtp", keys={"host": HOST, "port": server.port, "tls": "none"})
        monkeypatch.setattr("mailqueue.vendors.wire.smtp_connection.Connection.rcpt", broken)
        check(made, plain, attempt, "RuntimeError")
        monkeypatch.setattr("mailqueue.vendors.wire.smtp_connection.Connection.rcpt", unsayable)
        check(made, plain, attempt, "ValueError")
        monkeypatch.undo()
        assert made.send(plain, attempt()).outcome is Outcome.ACCEPTED
        monkeypatch.setattr(smtp, "_result_of_acceptance", broken)
        with pytest.raises(RuntimeError):
            made.send(plain, attempt())
        made.close()


def test_a_host_that_cannot_be_asked_for_is_the_configurations_fault(
    vendor: Vendors, attempt: Attempts, plain: Email
) -> None:
    made = vendor("smtp", keys={"host": f"{'x' * 64}.example.org"})
    result = made.send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "invalid_request")


def test_a_bug_after_the_request_went_out_is_not_called_unsent(
    vendor: Vendors, attempt: Attempts, plain: Email, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpServer(SES.accepted) as server:
        made: HttpVendor = vendor("ses", base_url=server.url, keys=SES.keys)
        monkeypatch.setattr(made, "parse", broken)
        with pytest.raises(RuntimeError):
            made.send(plain, attempt())
        made.close()


@pytest.mark.parametrize("type_", ["smtp", "ses"])
def test_a_deadline_that_was_used_up_by_ourselves_is_not_held_against_the_vendor(
    type_: str,
    vendor: Vendors,
    attempt: Attempts,
    plain: Email,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*_: Any, **__: Any) -> bytes:
        time.sleep(0.15)
        return b"Subject: x\r\n\r\nx\r\n"

    monkeypatch.setattr(base, "mime", slow)
    own = {"smtp": {"host": HOST, "port": 1}, "ses": SES.keys}[type_]
    made = vendor(type_, base_url=None if type_ == "smtp" else f"http://{HOST}:1", keys=own)
    result = made.send(plain, attempt(0.1))
    assert (result.outcome, result.code, result.our_fault) == (
        Outcome.UNAVAILABLE,
        "deadline",
        True,
    )

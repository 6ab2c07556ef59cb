"""What holds for every vendor before a byte is sent: loading, carrying, redaction, deadline."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from email.header import decode_header, make_header
from importlib import metadata
from typing import Any

import pytest

from mailqueue import vendors
from mailqueue.config import VendorConfig
from mailqueue.config.capacity import Capacity
from mailqueue.config.vendor_types import VENDOR_TYPES, VendorType
from mailqueue.errors import ConfigError
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Address, Email
from mailqueue.vendors import base, http, limits, load, payloads, values
from mailqueue.vendors.base import Vendor
from mailqueue.vendors.payloads import merge
from mailqueue.vendors.redaction import redacted
from mailqueue.vendors.simulated import Simulated
from mailqueue.vendors.wire.deadline import Call, DeadlinePassed
from mailqueue.vendors.wire.transport import NoResponse, Request, Transport
from tests.contract.cases import CASES
from tests.contract.conftest import EMAIL_ID, Attempts
from tests.forks import in_a_child
from tests.vendor_servers import HttpServer, Reply
from tests.waiting import wait_until


class Own(Vendor):
    """A user's own vendor."""

    def send(self, email: Email, attempt: base.Attempt) -> SendResult:
        return SendResult(outcome=Outcome.ACCEPTED)


NOT_A_VENDOR = object()


# --- load


@pytest.mark.parametrize("type_", sorted(VENDOR_TYPES))
def test_every_type_of_the_config_has_a_class(type_: str) -> None:
    keys: dict[str, Any] = {case.type: case.keys for case in CASES} | {
        "smtp": {"host": "localhost"}
    }
    base_url = "https://resource.example.org" if VENDOR_TYPES[type_].needs_base_url else None
    config = VendorConfig(name="v", type=type_, base_url=base_url, keys=keys[type_])
    vendor = load(config, simulated=False)
    assert repr(vendor) == f"<{type(vendor).__name__} v>"
    vendor.close()


def test_the_simulation_takes_the_place_of_any_vendor_and_accepts(
    plain: Email, attempt: Attempts
) -> None:
    config = VendorConfig(name="v", type="sendgrid", keys={"api_key": ""})
    vendor = load(config, simulated=True)
    assert isinstance(vendor, Simulated)
    result = vendor.send(plain, attempt())
    assert (result.outcome, result.code) == (Outcome.ACCEPTED, "simulated")
    assert result.message_id == f"simulated-{EMAIL_ID}"
    assert vendor.can_carry(plain) is None


def test_the_simulation_is_as_slow_as_configured(plain: Email, attempt: Attempts) -> None:
    options = {"simulated_delay": 0.02}
    config = VendorConfig(name="v", type="smtp", keys={"host": "localhost"}, options=options)
    begin = time.monotonic()
    load(config, simulated=True).send(plain, attempt())
    assert time.monotonic() - begin >= 0.02


def test_a_class_of_your_own_is_loaded_by_its_path_and_can_carry_everything(plain: Email) -> None:
    vendor = load(VendorConfig(name="v", type=f"{__name__}:Own"), simulated=False)
    assert type(vendor).__name__ == "Own"
    assert vendor.can_carry(plain) is None
    vendor.close()


@pytest.mark.parametrize(
    "path", ["no_such_module:Own", f"{__name__}:Missing", f"{__name__}:NOT_A_VENDOR"]
)
def test_a_class_that_is_no_vendor_is_a_config_error(path: str) -> None:
    with pytest.raises(ConfigError, match=r"vendors\.v\.type"):
        load(VendorConfig(name="v", type=path), simulated=False)


def test_what_vendors_can_carry_is_known_without_any_client_library() -> None:
    code = (
        "import sys, mailqueue.vendors.limits;"
        "sys.exit(bool({'requests', 'urllib3', 'smtplib'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_authors_of_vendors_find_all_they_need_in_one_place() -> None:
    """Nothing of it is imported before it is asked for."""
    code = (
        "import sys, mailqueue.vendors as door;"
        "early = {'requests', 'pymongo'} & sys.modules.keys();"
        "missing = [name for name in door.__all__ if not hasattr(door, name)];"
        "sys.exit(bool(early or missing))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert vendors.HttpVendor is http.HttpVendor
    with pytest.raises(AttributeError, match="no attribute 'Httpvendor'"):
        vendors.Httpvendor  # type: ignore[attr-defined]  # noqa: B018  # the test asks for it


# --- can_carry


def _email(**fields: Any) -> Email:
    given = {"from": "a@example.org", "to": ["b@example.org"], "subject": "s", "text": "t"}
    return Email.from_mapping({**given, **fields})


def _many(count: int) -> list[str]:
    return [f"r{n}@example.org" for n in range(count)]


GIF = {"filename": "a.gif", "content": b"x", "content_type": "image/gif"}
PDF = {"filename": "a.pdf", "content": b"x", "content_type": "application/pdf"}
ZIP = {"filename": "a.zip", "content": b"x", "content_type": "application/zip"}
LONG = {"subject": "A long subject", "text": "A long text."}
NO_IMAGE = "inline attachment that is not an image"
OTHER_KIND = "attachment whose name contradicts its type"
NOT_UTF8 = "attachment of text that is not UTF-8"
ODD_ID = "content id with a comma or semicolon"


def _text_file(charset: str) -> dict[str, Any]:
    kind = f"text/plain; charset={charset}"
    return {"attachments": [{"filename": "a.txt", "content": b"x", "content_type": kind}]}


NOT_CARRIED = [
    ("sendgrid", {"to": [], "cc": ["b@example.org"]}, "no To recipient"),
    ("mailgun", {"to": [], "bcc": ["b@example.org"]}, "no To recipient"),
    ("sendgrid", {"subject": ""}, "no subject"),
    ("sendgrid", {"text": ""}, "empty body"),
    ("sendgrid", {"to": ["dörte@example.org"]}, "non-ASCII mailbox"),
    ("mailgun", {"from": "dörte@example.org"}, "non-ASCII mailbox"),
    ("mailgun", {"reply_to": ["dörte@example.org"]}, "non-ASCII mailbox"),
    ("sendgrid", {"attachments": [{"filename": "a", "content": b""}]}, "empty attachment"),
    ("sendgrid", {"headers": {"X-SG-EID": "1"}}, "reserved header"),
    ("sendgrid", _text_file("iso-8859-1"), NOT_UTF8),
    ("mailersend", _text_file("windows-1252"), NOT_UTF8),
    ("sendgrid", {"attachments": [GIF | {"content_id": "a;b"}]}, ODD_ID),
    ("mailgun", {"headers": {"X-A": "x" * 16_384}}, "more than 16384 bytes of headers"),
    ("mailgun", {"text": "x" * 26 * 2**20}, "larger than 25 MiB"),
    ("mailersend", {"to": _many(51)}, "more than 50 to recipients"),
    ("mailersend", {"cc": _many(11)}, "more than 10 cc recipients"),
    ("mailersend", {"bcc": _many(11)}, "more than 10 bcc recipients"),
    ("mailersend", {"subject": "s" * 999}, "subject longer than 998"),
    ("mailersend", {"reply_to": _many(2)}, "more than 1 reply-to"),
    ("mailersend", {"headers": {"X-A": "b"}}, "custom headers"),
    ("mailersend", {"attachments": [GIF | {"filename": "a.pdf"}]}, OTHER_KIND),
    ("mailtrap", {"subject": ""}, "no subject"),
    ("mandrill", {"attachments": [PDF | {"content_id": "c"}]}, NO_IMAGE),
    ("smtp2go", {"attachments": [PDF | {"content_id": "c"}]}, NO_IMAGE),
    ("smtp2go", {"bcc": _many(101)}, "more than 100 bcc recipients"),
    ("scaleway", LONG | {"subject": "too short"}, "subject or body shorter than 10"),
    ("scaleway", LONG | {"html": "too short"}, "subject or body shorter than 10"),
    ("scaleway", LONG | {"attachments": [GIF | {"content_id": "c"}]}, "inline attachment"),
    ("scaleway", LONG | {"attachments": [GIF] * 11}, "more than 10 attachments"),
    ("scaleway", LONG | {"attachments": [ZIP]}, "attachment type not accepted"),
    ("ses", {"to": _many(51)}, "more than 50 recipients"),
    ("ses", {"reply_to": ["dörte@example.org"]}, "non-ASCII mailbox"),
    ("azure", {"text": "x" * 11 * 2**20}, "larger than 10 MiB"),
    ("azure", {"to": [], "cc": ["b@example.org"]}, "no To recipient"),
    ("azure", {"to": _many(50), "bcc": ["b@example.com"]}, "more than 50 recipients"),
    (
        "scaleway",
        LONG | {"attachments": [PDF | {"content": b"x" * 2_000_001}]},
        "attachments larger than 2 MB",
    ),
]


@pytest.mark.parametrize("type_,fields,reason", NOT_CARRIED)
def test_what_a_vendor_cannot_take_is_known_before_a_call(
    type_: str, fields: dict[str, Any], reason: str
) -> None:
    assert limits.can_carry(type_, _email(**fields)) == reason


CARRIED = [
    ("sendgrid", {"to": ["b@example.org", "B@example.org"], "cc": ["b@example.org"]}),
    ("sendgrid", {"to": ["b@bücher.example"], "tags": ["same"] * 11}),
    ("sendgrid", {"to": _many(1000)}),
    ("mailgun", {"subject": "", "attachments": [{"filename": "a", "content": b""}]}),
    ("smtp", {"to": ["dörte@example.org"], "subject": "", "text": ""}),
    ("smtp", {"to": [], "bcc": ["b@example.org"], "tags": _many(50)}),
    ("mailersend", {"to": _many(50), "cc": _many(10), "tags": _many(4), "html": "<p>"}),
    ("mailtrap", {"tags": ["a", "a"], "reply_to": _many(3), "to": [], "cc": ["b@example.org"]}),
    ("mandrill", {"tags": ["a_"], "attachments": [GIF | {"content_id": "c"}], "subject": ""}),
    ("smtp2go", {"to": _many(100), "reply_to": _many(3), "tags": ["a"], "metadata": {"a": "b"}}),
    ("ses", {"to": [], "bcc": _many(50), "tags": ["ü" * 94], "metadata": {"x" * 189: "v"}}),
    ("azure", {"to": _many(50), "tags": _many(11), "reply_to": _many(3)}),
    ("azure", {"to": _many(50), "cc": ["R7@EXAMPLE.org"]}),  # the same mailbox again
    ("mailersend", {"to": ["b@example.org"] * 51}),
    ("mailersend", _text_file("utf-8")),
    ("sendgrid", _text_file("us-ascii")),
    ("scaleway", LONG | {"text": "", "html": "<p>long</p>", "attachments": [PDF, GIF] * 5}),
]


@pytest.mark.parametrize("type_,fields", CARRIED)
def test_what_a_vendor_can_take(type_: str, fields: dict[str, Any]) -> None:
    assert limits.can_carry(type_, _email(**fields)) is None


NARROW = [
    (Capacity(recipients=1), {"to": _many(2)}, "more than 1 recipients"),
    (Capacity(reply_to=1), {"reply_to": _many(2)}, "more than 1 reply-to"),
    (Capacity(text_only=False), {}, "text only"),
    (Capacity(headers=False), {"headers": {"X-A": "b"}}, "custom headers"),
    (
        Capacity(sender_name_size=3),
        {"from": "äö <c@x.org>"},
        "sender name longer than 3 bytes",
    ),
    (
        Capacity(inline=False),
        {"attachments": [{"filename": "a", "content": b"x", "content_id": "c"}]},
        "inline attachment",
    ),
]


@pytest.mark.parametrize("capacity,fields,reason", NARROW)
def test_each_limit_is_looked_at(
    capacity: Capacity,
    fields: dict[str, Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    narrow = VendorType("module:Class", {}, capacity)
    monkeypatch.setattr(limits, "VENDOR_TYPES", {"narrow": narrow})
    assert limits.can_carry("narrow", _email(**fields)) == reason
    assert limits.can_carry("narrow", _email(html="<p>")) is None


def test_why_nobody_carries_an_email_is_told_vendor_by_vendor() -> None:
    cases = [case for case in CASES if case.type in {"sendgrid", "mailgun"}]
    vendors = [VendorConfig(name=case.type, type=case.type, keys=case.keys) for case in cases]
    eai = _email(to=["dörte@example.org"])
    assert limits.nobody_carries(vendors, _email()) is None
    assert limits.nobody_carries([], eai) is None
    problem = "no vendor can carry it (sendgrid: non-ASCII mailbox; mailgun: non-ASCII mailbox)"
    assert limits.nobody_carries(vendors, eai) == ("email", problem)


# --- what is said


def test_a_detail_has_no_personal_words_no_line_ends_and_200_characters_at_most() -> None:
    email = _email(
        to=[Address("Bo Li", "bo@example.org")], subject="Payment due", metadata={"m": "M-1"}
    )
    said = "550 BO LI <x@y.org>\r\nbo payment DUE M-1 key=k3y about \x00" + "w " * 300
    detail = redacted(said, email, ("k3y",))
    assert detail.startswith("550 * * * * * key=* about w w")
    assert len(detail) <= 200


def test_each_address_is_listed_once_where_it_is_shown_first() -> None:
    email = _email(
        to=["a@bücher.example"], cc=["A@xn--bcher-kva.example", "c@x.org"], bcc=["C@x.org"]
    )
    listed = payloads.unique_recipients(email)
    shown = {name: [person.ascii for person in people] for name, people in listed.items()}
    assert shown == {"to": ["a@xn--bcher-kva.example"], "cc": ["c@x.org"]}


def test_recipients_that_a_vendor_names_are_given_back_as_we_write_them() -> None:
    email = _email(to=["Bob@bücher.example"], cc=["c@x.org"])
    said: list[Any] = ["bob@xn--bcher-kva.example", "stranger@x.org", None, {}]
    assert values.matching_recipients(email, said) == ("Bob@bücher.example",)


def test_headers_for_apis_that_pass_them_on_are_plain_ascii_and_read_back() -> None:
    reply_to = [Address("Dörte; Ö", "d@bücher.example"), "e@x.org"]
    email = _email(headers={"X-Name": "Über"}, reply_to=reply_to)
    headers = payloads.encoded_headers(email)
    assert all(value.isascii() for value in headers.values())
    first, second = headers["Reply-To"].split(", ")
    assert Address.parse(first) == Address("Dörte; Ö", "d@xn--bcher-kva.example")
    assert second == "e@x.org"
    assert str(make_header(decode_header(headers["X-Name"]))) == "Über"


def test_options_are_merged_deeply_and_lists_are_replaced() -> None:
    base_, over = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": {"e": 1}}
    assert merge(base_, over) == {"a": {"b": 1, "c": [2]}, "d": {"e": 1}}
    assert base_ == {"a": {"b": 1, "c": [1]}, "d": 1}


def test_the_user_agent_names_the_version_also_out_of_a_source_tree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(_: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    assert http.common_headers.__wrapped__()["User-Agent"] == "mailqueue/0"


# --- requests that cannot be made, answers that are odd


def test_what_cannot_be_put_on_the_wire_is_said_so_before_a_byte_is_sent() -> None:
    with HttpServer(Reply(200)) as server:
        transport = Transport(server.url)
        with pytest.raises(NoResponse) as lost:
            transport.post(Request("/", b"", {"Key": "a\r\nb"}), time.monotonic() + 5, 5)
    assert (lost.value.code, lost.value.written) == ("invalid_request", False)


def test_a_request_that_cannot_be_made_is_a_matter_of_the_configuration(
    plain: Email, attempt: Attempts
) -> None:
    with HttpServer(Reply(202)) as server:
        keys = {"api_key": "a\u2028b"}
        config = VendorConfig(name="v", type="sendgrid", base_url=server.url, keys=keys)
        result = load(config, simulated=False).send(plain, attempt())
        assert server.requests == []
    assert (result.outcome, result.code) == (Outcome.MISCONFIGURED, "invalid_request")


# --- the deadline


@pytest.fixture
def pair() -> Any:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_the_watchdog_wakes_whoever_waits_at_the_deadline(pair: Any) -> None:
    left, _ = pair
    with Call(time.monotonic() + 0.05) as call:
        call.attach(left)
        assert left.recv(1) == b""
        assert call.was_shut
        assert call.has_expired


def test_the_earliest_of_several_deadlines_is_kept_first(pair: Any) -> None:
    left, right = pair
    with Call(time.monotonic() + 60) as late, Call(time.monotonic() + 0.05) as early:
        late.attach(right)
        early.attach(left)
        assert left.recv(1) == b""
        assert not late.was_shut


def test_a_socket_attached_after_the_deadline_is_shut_at_once(pair: Any) -> None:
    left, _ = pair
    with Call(time.monotonic() - 1) as call:
        call.attach(left)
        assert left.recv(1) == b""
        with pytest.raises(DeadlinePassed):
            call.writing(left)


def test_a_call_that_is_over_leaves_its_socket_alone(pair: Any) -> None:
    left, right = pair
    with Call(time.monotonic() + 0.5) as call:  # it is over long before
        call.attach(left)
        call.attach(left)
    with Call(call.deadline) as other:
        wait_until(lambda: other.was_shut)
    call.shut()
    left.sendall(b"x")
    assert right.recv(1) == b"x"


def test_the_watchdog_works_in_a_forked_child(pair: Any) -> None:
    left, _ = pair

    def is_ended() -> str:
        with Call(time.monotonic() + 0.05) as call:
            call.attach(left)
            return str(left.recv(1) == b"" and call.was_shut)

    with Call(time.monotonic() + 60):
        assert in_a_child(is_ended) == "True"

"""What a raw message and its envelope become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mailqueue.config import Config, VendorConfig
from mailqueue.errors import InvalidEmail
from mailqueue.message import Address, parsing
from mailqueue.smtp import submission
from tests.for_each import for_each

KEYS = {
    "smtp": {"host": "127.0.0.1"},
    "ses": {"region": "eu-west-1"},
    "sendgrid": {"api_key": "SG.x"},
}
HEAD = "From: Ann <ann@example.com>\r\nTo: bob@example.org\r\nSubject: Hi\r\n"


def read(
    head: str = HEAD,
    *recipients: str,
    sender: str | None = "ann@example.com",
    body: str = "Hello\r\n",
    vendors: Sequence[str] = ("smtp",),
) -> submission.SendArguments:
    message = parsing.parse(f"{head}\r\n{body}".encode())
    people = [Address.parse(each) for each in recipients or ("bob@example.org",)]
    configured = [VendorConfig(name=each, type=each, keys=KEYS[each]) for each in vendors]
    bounces = Address.parse(sender) if sender else None
    return submission.read(message, bounces, people, configured)


def stored(*arguments: Any, **options: Any) -> dict[str, Any]:
    return read(*arguments, **options).email.to_mapping()


def test_an_envelope_that_says_what_the_headers_say_is_not_stored() -> None:
    assert stored() == {
        "from": "Ann <ann@example.com>",
        "to": ["bob@example.org"],
        "subject": "Hi",
        "text": "Hello\r\n",
    }


def test_somebody_whom_only_the_envelope_names_gets_a_blind_copy() -> None:
    email = stored(HEAD, "bob@example.org", "Carol@example.org")
    assert (email["to"], email["bcc"]) == (["bob@example.org"], ["Carol@example.org"])
    assert "envelope" not in email


def test_a_bcc_field_tells_nobody_anything() -> None:
    email = stored(f"{HEAD}Bcc: dan@example.org, eve@example.org\r\n", "bob@example.org")
    assert "bcc" not in email
    assert "dan@" not in repr(email)


def test_somebody_in_to_whom_the_envelope_leaves_out_is_shown_only() -> None:
    email = stored(f"{HEAD}Cc: list@example.org\r\n", "bob@example.org")
    assert email["cc"] == ["list@example.org"]
    assert email["envelope"] == {"recipients": ["bob@example.org"]}


def test_a_bounce_address_of_its_own_is_stored() -> None:
    assert stored(sender="bounce+7@example.com")["envelope"] == {"from": "bounce+7@example.com"}
    assert stored(sender=None)["envelope"] == {"from": ""}


def test_a_domain_is_the_same_in_capital_letters() -> None:
    assert "envelope" not in stored(HEAD, "bob@EXAMPLE.org", sender="ann@Example.COM")


def test_a_message_that_shows_no_recipient_is_to_the_only_one_or_to_hidden_ones() -> None:
    head = "From: ann@example.com\r\n"
    assert stored(head, "bob@example.org")["to"] == ["bob@example.org"]
    several = stored(head, "bob@example.org", "carol@example.org")
    assert "to" not in several
    assert several["bcc"] == ["bob@example.org", "carol@example.org"]


def test_fields_for_us_are_read_and_taken_out() -> None:
    arguments = read(
        f"{HEAD}X-Mailqueue-Priority: High\r\nX-Mailqueue-Tag: welcome\r\n"
        "x-mailqueue-tag: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nIdempotency-Key: order-7\r\n"
    )
    assert (arguments.priority, arguments.idempotency_key) == ("high", "order-7")
    assert arguments.email.tags == ("welcome", "grüße")
    assert arguments.email.headers == {}


@for_each("name", ["Idempotency-Key", "X-Mailqueue-Priority"])
def test_a_field_for_us_that_is_given_twice_is_refused(name: str) -> None:
    with pytest.raises(InvalidEmail, match="more than once"):
        read(f"{HEAD}{name}: high\r\n{name}: high\r\n")


def test_a_field_for_us_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(InvalidEmail, match="X-Mailqueue-Colour"):
        read(f"{HEAD}X-Mailqueue-Colour: red\r\n")


def test_traces_of_the_way_here_are_taken_out() -> None:
    trace = "Received: from a\r\n by b\r\nReceived: from c by d\r\nReturn-Path: <x@example.com>\r\n"
    assert read(f"{trace}DKIM-Signature: v=1\r\n{HEAD}X-Mailer: cron\r\n").email.headers == {
        "X-Mailer": "cron"
    }


def test_a_text_without_a_charset_is_utf_8() -> None:
    assert stored(body="Grüße\r\n")["text"] == "Grüße\r\n"


@for_each(
    "field, head",
    [
        ("from", "To: bob@example.org\r\n"),
        ("to[1]", "From: ann@example.com\r\nTo: bob@example.org, nobody\r\n"),
        ("cc[0]", f"{HEAD}Cc: nobody\r\n"),
    ],
)
def test_what_is_not_valid_is_refused_with_its_field(field: str, head: str) -> None:
    with pytest.raises(InvalidEmail) as caught:
        read(head)
    assert caught.value.field == field
    assert "nobody" not in caught.value.problem


def test_a_file_that_fills_the_limit_fits_in_base64() -> None:
    limit = submission.max_bytes(Config(limits={"max_size": 1_000_000}))
    assert limit > 1_000_000 / 57 * 78


def test_a_bounce_address_is_kept_only_where_every_vendor_can_send_by_it() -> None:
    """Else one vendor could not stand in for another, or no vendor could send it."""
    kept = {
        vendors: [
            stored(HEAD, sender=sender, vendors=vendors).get("envelope")
            for sender in ("bounce+7@example.com", None)
        ]
        for vendors in (("smtp",), ("smtp", "ses"), ("smtp", "sendgrid"), ("sendgrid",))
    }
    assert kept == {
        ("smtp",): [{"from": "bounce+7@example.com"}, {"from": ""}],
        ("smtp", "ses"): [{"from": "bounce+7@example.com"}, None],
        ("smtp", "sendgrid"): [None, None],
        ("sendgrid",): [None, None],
    }

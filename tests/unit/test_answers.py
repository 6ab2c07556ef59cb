"""What a vendor said, made storable: whatever it is, a worker can go on with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from bson import encode

from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors import load
from mailqueue.vendors.answers import CODE, DETAIL, MESSAGE_ID, from_exception, sanitize, secrets_of
from mailqueue.vendors.base import Attempt, Vendor
from tests.for_each import for_each

EMAIL = Email(
    from_="ann@example.com",
    to=["bob@example.org", "Bob@example.org", "Zoe <zoe@EXAMPLE.org>"],
    text="Hello",
)


class Word(str):
    """A text of somebody's own."""

    __slots__ = ()

    def __str__(self) -> str:
        raise SystemExit("not to be shown")


class Trap:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise KeyboardInterrupt

    def __bool__(self) -> bool:
        raise GeneratorExit

    def __iter__(self) -> Iterator[Any]:
        raise MemoryError


ODD: dict[str, Any] = {
    "None": None,
    "bytes": b"\xff\x00id",
    "a number": 7,
    "a huge number": 10**5000,
    "a fraction": 1.5,
    "not a number": math.nan,
    "infinite": math.inf,
    "below zero": -1,
    "a truth": True,
    "a text of its own": Word("x"),
    "a huge text": "x" * 1_000_000,
    "a lone surrogate": "a\ud800b",
    "control characters": "a\0b\r\nc\x1b[2J",
    "a list": ["x", None, 5, b"y", "bob@example.org"],
    "an endless list": iter(lambda: "x", None),
    "an object": {"a": 1},
    "a trap": Trap(),
    "a class": Trap,
}


def answer(**said: Any) -> SendResult:
    return SendResult(**{"outcome": Outcome.ACCEPTED, "code": "202", **said})


@for_each("odd", ODD)
def test_whatever_a_field_holds_the_answer_can_be_stored(odd: str) -> None:
    for field in fields(SendResult):
        assert_is_storable(sanitize(answer(**{field.name: ODD[odd]}), EMAIL))


def assert_is_storable(result: SendResult) -> None:
    assert type(result.outcome) is Outcome
    for name, most in (("code", CODE), ("detail", DETAIL), ("message_id", MESSAGE_ID)):
        value = getattr(result, name)
        assert value is None or (type(value) is str and value.isprintable() and len(value) <= most)
    assert result.retry_after is None or 0 <= result.retry_after < math.inf
    assert {*result.refused, *result.pending} <= {p.address for p in EMAIL.recipients}
    encode({field.name: getattr(result, field.name) for field in fields(SendResult)})


@for_each("odd", ODD)
def test_what_is_no_answer_is_unknown_and_ours(odd: str) -> None:
    result = sanitize(ODD[odd], EMAIL)
    assert (result.outcome, result.our_fault, result.answered) == (Outcome.UNKNOWN, True, False)


def test_an_answer_in_order_stays_as_it_is() -> None:
    said = answer(
        detail="two are put off",
        message_id="<ü@vendor>",
        retry_after=12.5,
        refused=("bob@example.org",),
        pending=("zoe@EXAMPLE.org",),
        quota_held=True,
        content_suspect=True,
    )
    assert sanitize(said, EMAIL) == said


def test_an_outcome_may_be_given_by_its_word() -> None:
    assert sanitize(answer(outcome="rejected"), EMAIL).outcome is Outcome.REJECTED
    assert sanitize(answer(outcome="perhaps"), EMAIL).outcome is Outcome.UNKNOWN


def test_recipients_are_the_emails_own_each_once_and_refused_before_put_off() -> None:
    """Two mailboxes that differ in case only are not mixed up."""
    said = answer(
        refused=["bob@example.org", "stranger@example.net", "bob@example.org"],
        pending=["bob@example.org", "ZOE@example.org"],
    )
    result = sanitize(said, EMAIL)
    assert result.refused == ("bob@example.org",)
    assert result.pending == ("zoe@EXAMPLE.org",)


def test_what_is_not_printable_is_a_question_mark() -> None:
    result = sanitize(answer(message_id="a\ud800b\0", code=b"caf\xe9", detail="x\ny"), EMAIL)
    assert (result.message_id, result.code, result.detail) == ("a?b?", "caf\ufffd", "x y")


class Loft(Vendor):
    """A vendor of somebody's own, who passes on what he is told."""

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        raise NotImplementedError


def test_what_a_vendor_of_ones_own_says_is_hidden_where_it_is_private() -> None:
    keys = {"loft": "k3y-of-the-loft", "doves": 7}
    own = Loft(VendorConfig(name="loft", type="loft:Loft", keys=keys))
    said = answer(detail=f"not to Bob@example.org: hello, {'x' * 200}{keys['loft']}")
    assert sanitize(said, EMAIL, own).detail.startswith("not to *: *, xx")
    told = sanitize(answer(detail=f"who is {keys['loft']}?"), EMAIL, own)
    assert told.detail == "who is *?"
    our_fault = VendorConfig(name="first", type="sendgrid", keys={"api_key": "SG.x"})
    assert secrets_of(load(our_fault, simulated=False)) == ("SG.x",)


def test_an_exception_is_unknown_and_named() -> None:
    result = from_exception(GeneratorExit("with a secret"))
    assert (result.outcome, result.code, result.our_fault) == (
        *(Outcome.UNKNOWN, "raised_GeneratorExit", True),
    )


class Secretive:
    """A vendor that is not to be asked anything."""

    @property
    def secrets(self) -> tuple[str, ...]:
        raise SystemExit


def test_a_vendor_that_raises_when_it_is_asked_has_no_secrets_to_hide() -> None:
    assert secrets_of(Secretive()) == ()  # type: ignore[arg-type]  # it is enough of a vendor

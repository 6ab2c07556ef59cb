"""What a vendor said, made storable: the one door through which an answer enters the worker.

Decides: what of an answer is kept. A vendor's class may be the user's own, and what it passes on
comes from a server that we do not know: any field may be of any type and of any size.

Promises: never raises. Texts are printable and bounded, recipients are the e-mail's own as we write
them, each named once; numbers are finite. What is no answer at all is ``unknown``, and ours.
"""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import islice
from typing import Any, TypeGuard

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors import discretion
from mailqueue.vendors.base import Vendor, matching_recipients

CODE, DETAIL, MESSAGE_ID = 100, discretion.LENGTH, 512  # characters
NO_ANSWER = "no_answer"
_ADDRESS = 400  # characters
_NAMED = 2000  # recipients that are looked at: twice as many as an e-mail can have
_LONGEST_WAIT = 1e9  # seconds
_FLAGS = tuple(field.name for field in fields(SendResult) if field.type == "bool")
_NOTHING = SendResult(outcome=Outcome.ACCEPTED)  # "" and () are one object each


def storable(said: object, email: Email, vendor: Vendor | None = None) -> SendResult:
    """The answer to this e-mail as it can be stored.

    What is private is hidden in its ``detail``, the secrets of the ``vendor`` too.
    """
    try:
        if _is_usual(said):
            return said
        return _storable(said, email, () if vendor is None else secrets_of(vendor))
    except BaseException as error:  # noqa: BLE001  # its parts may be objects of the vendor's own
        return raised(error)


def raised(error: BaseException) -> SendResult:
    """What an exception of a vendor's class says: nothing that is known."""
    code = text(f"raised_{type(error).__name__}", CODE)
    return SendResult(outcome=Outcome.UNKNOWN, code=code, answered=False, our_fault=True)


def secrets_of(vendor: Vendor) -> tuple[str, ...]:
    """What is to be hidden of a vendor's own."""
    try:
        return tuple(map(str, vendor.secrets))
    except BaseException:  # noqa: BLE001  # it may be a property of the user's own, or missing
        return ()


def _storable(said: Any, email: Email, secrets: tuple[str, ...]) -> SendResult:
    if not isinstance(said, SendResult):
        return SendResult(outcome=Outcome.UNKNOWN, code=NO_ANSWER, answered=False, our_fault=True)
    detail = _plain(said.detail, discretion.LOOKED_AT)
    refused, pending = _people(said.refused, email), _people(said.pending, email)
    return SendResult(
        outcome=Outcome(said.outcome),
        code=text(said.code, CODE),
        detail=text(discretion.discreet(detail, email, secrets), DETAIL),
        message_id=None if said.message_id is None else text(said.message_id, MESSAGE_ID),
        retry_after=seconds(said.retry_after),
        refused=refused,
        pending=tuple(person for person in pending if person not in refused),
        **{name: bool(getattr(said, name)) for name in _FLAGS},
    )


def _is_usual(said: object) -> TypeGuard[SendResult]:
    """The usual yes, of which nothing has to be made."""
    return (
        type(said) is SendResult
        and said.outcome is Outcome.ACCEPTED
        and type(said.code) is type(said.message_id) is str
        and len(said.code) <= CODE
        and len(said.message_id) <= MESSAGE_ID
        and said.code.isprintable()
        and said.message_id.isprintable()
        and said.detail is _NOTHING.detail
        and said.refused is said.pending is _NOTHING.refused
        and said.retry_after is None
        and said.answered is True
        and said.quota_held is said.replay is said.our_fault is said.content_suspect is False
    )


def text(value: object, most: int) -> str:
    """At most so many characters of printable text; a question mark for each that is not."""
    plain = _plain(value, most)
    return plain if plain.isprintable() else "".join(c if c.isprintable() else "?" for c in plain)


def _plain(value: object, most: int) -> str:
    """At most so many characters of a text, of bytes or of a number; else none."""
    if isinstance(value, bytes | bytearray):
        value = value[: 4 * most].decode("utf-8", "replace")
    elif isinstance(value, int) and not isinstance(value, bool):
        value = format(value, "d") if abs(value) < 1 << 64 else ""
    if not isinstance(value, str):
        return ""
    return "".join(str.__iter__(str.__getitem__(value, slice(most))))


def seconds(value: object) -> float | None:
    """A duration; None for what is none, or below 0."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    known = isinstance(value, int) or math.isfinite(value)
    return float(min(value, _LONGEST_WAIT)) if known and value >= 0 else None


def _people(addresses: Any, email: Email) -> tuple[str, ...]:
    """Those that are recipients: as they are written, else in whatever case."""
    if not addresses or isinstance(addresses, str | bytes):
        return ()
    own = {person.address for person in email.recipients}
    told = dict.fromkeys(text(each, _ADDRESS) for each in islice(addresses, _NAMED))
    exact = [each for each in told if each in own]
    return tuple(dict.fromkeys((*exact, *matching_recipients(email, told.keys() - own))))

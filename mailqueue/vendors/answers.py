"""What a vendor's class returns or raises, made storable: the one way into the worker.

Decides: what is kept of an answer. A vendor's class may be the user's own, and what it passes on
comes from an unknown server: any field may be of any type and of any size.

Promises: never raises. Texts are printable and bounded. Recipients are the e-mail's own, as the
e-mail has them, each once. Numbers are finite. An answer that is no ``SendResult`` is ``unknown``,
and our fault.
"""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import islice
from typing import Any, TypeGuard

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors import redaction
from mailqueue.vendors.base import Vendor
from mailqueue.vendors.values import matching_recipients

CODE, DETAIL, MESSAGE_ID = 100, redaction.LENGTH, 512  # characters
NO_ANSWER = "no_answer"  # the class returned something else than a SendResult
_ADDRESS = 400  # characters
_MAX_NAMED = 2000  # recipients that are looked at: twice as many as an e-mail can have
_MAX_SECONDS = 1e9  # seconds
_FLAGS = tuple(field.name for field in fields(SendResult) if field.type == "bool")
_NOTHING = SendResult(outcome=Outcome.ACCEPTED)  # "" and () are one object each


def sanitize(answer: object, email: Email, vendor: Vendor | None = None) -> SendResult:
    """The answer to this e-mail as it can be stored.

    Private words are hidden in its ``detail``, and so are the secrets of the ``vendor``.
    """
    try:
        if _is_usual(answer):
            return answer
        return _storable_result(answer, email, () if vendor is None else secrets_of(vendor))
    except BaseException as error:  # noqa: BLE001  # its parts may be objects of the vendor's own
        return from_exception(error)


def from_exception(error: BaseException) -> SendResult:
    """The result of an exception in a vendor's class: whether anything was sent is unknown."""
    code = text(f"raised_{type(error).__name__}", CODE)
    return SendResult(outcome=Outcome.UNKNOWN, code=code, answered=False, our_fault=True)


def secrets_of(vendor: Vendor) -> tuple[str, ...]:
    """What ``redaction`` has to hide for this vendor."""
    try:
        return tuple(map(str, vendor.secrets))
    except BaseException:  # noqa: BLE001  # it may be a property of the user's own, or missing
        return ()


def _storable_result(answer: Any, email: Email, secrets: tuple[str, ...]) -> SendResult:
    if not isinstance(answer, SendResult):
        return SendResult(outcome=Outcome.UNKNOWN, code=NO_ANSWER, answered=False, our_fault=True)
    detail = _plain_text(answer.detail, redaction.LOOKED_AT)
    refused, pending = _people(answer.refused, email), _people(answer.pending, email)
    return SendResult(
        outcome=Outcome(answer.outcome),
        code=text(answer.code, CODE),
        detail=text(redaction.redacted(detail, email, secrets), DETAIL),
        message_id=None if answer.message_id is None else text(answer.message_id, MESSAGE_ID),
        retry_after=seconds(answer.retry_after),
        refused=refused,
        pending=tuple(person for person in pending if person not in refused),
        **{name: bool(getattr(answer, name)) for name in _FLAGS},
    )


def _is_usual(answer: object) -> TypeGuard[SendResult]:
    """An ordinary ``accepted``, which can be stored as it is."""
    # Nearly every answer is one. This looks at all fields in less time than it takes to rebuild it.
    return (
        type(answer) is SendResult
        and answer.outcome is Outcome.ACCEPTED
        and type(answer.code) is type(answer.message_id) is str
        and len(answer.code) <= CODE
        and len(answer.message_id) <= MESSAGE_ID
        and answer.code.isprintable()
        and answer.message_id.isprintable()
        and answer.detail is _NOTHING.detail
        and answer.refused is answer.pending is _NOTHING.refused
        and answer.retry_after is None
        and answer.answered is True
        and answer.quota_held is answer.replay is False
        and answer.our_fault is answer.content_suspect is False
    )


def text(value: object, most: int) -> str:
    """At most ``most`` characters of printable text; each other one is a question mark."""
    plain = _plain_text(value, most)
    return plain if plain.isprintable() else "".join(c if c.isprintable() else "?" for c in plain)


def _plain_text(value: object, most: int) -> str:
    """At most ``most`` characters of a text, of bytes or of a number; of anything else none."""
    if isinstance(value, bytes | bytearray):
        value = value[: 4 * most].decode("utf-8", "replace")
    elif isinstance(value, int) and not isinstance(value, bool):
        value = format(value, "d") if abs(value) < 1 << 64 else ""
    if not isinstance(value, str):
        return ""
    return "".join(str.__iter__(str.__getitem__(value, slice(most))))


def seconds(value: object) -> float | None:
    """A duration of 0 or more; None: it is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    finite = isinstance(value, int) or math.isfinite(value)
    return float(min(value, _MAX_SECONDS)) if finite and value >= 0 else None


def _people(addresses: Any, email: Email) -> tuple[str, ...]:
    """The recipients among these addresses: spelt the same, else in another case."""
    if not addresses or isinstance(addresses, str | bytes):
        return ()
    # Two recipients may differ in case only: a name that is spelt like one of them means that one.
    own = {person.address for person in email.recipients}
    texts = dict.fromkeys(text(each, _ADDRESS) for each in islice(addresses, _MAX_NAMED))
    exact = [each for each in texts if each in own]
    return tuple(dict.fromkeys((*exact, *matching_recipients(email, texts.keys() - own))))

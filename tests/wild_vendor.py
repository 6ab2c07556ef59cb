"""A vendor class that does what an e-mail's subject asks for; a config names it by its path."""

from __future__ import annotations

import threading
from typing import Any

from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.base import Attempt, Vendor

RAISED = {
    kind.__name__: kind
    for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError, OSError)
}
ANSWERS: dict[str, Any] = {
    "a lone surrogate": "a\ud800b",
    "a huge id": "x" * 900_000,
    "an id of bytes": b"id\xff",
    "an id of NUL": "a\0b",
    "an id that is a number": 7,
}


class Wild(Vendor):
    """Accepts everything that asks for nothing else."""

    def can_carry(self, email: Email) -> str | None:
        if email.subject == "can_carry":
            raise RAISED["SystemExit"]
        return None

    def send(self, email: Email, attempt: Attempt) -> SendResult:  # the port's
        if email.subject in RAISED:
            raise RAISED[email.subject]
        if email.subject == "no answer":
            return None  # type: ignore[return-value]  # on purpose
        message_id = ANSWERS.get(email.subject, "id")
        return SendResult(outcome=Outcome.ACCEPTED, code="202", message_id=message_id)

    def close(self) -> None:
        raise SystemExit


class OnlyInMainThread(Wild):
    """Cannot be made by a sender."""

    def __init__(self, config: VendorConfig) -> None:
        super().__init__(config)
        if threading.current_thread() is not threading.main_thread():
            raise SystemExit


class Never(Vendor):
    """Cannot be made at all."""

    def __init__(self, config: VendorConfig) -> None:  # the port's
        raise KeyError("with a secret")

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        raise NotImplementedError

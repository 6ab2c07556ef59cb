"""A vendor that answers by a script and sends nothing.

Decides: the answer to each call. The consumer makes an instance of ``ScriptedVendor`` for each of
its threads; all of them ask the test's one ``FakeVendor``.

Promises: no connection is opened. It answers outside production as well, where all other vendors
are replaced by the simulation, and cannot be made in production. Any thread may call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from mailqueue.errors import did_you_mean
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors import FAKE
from mailqueue.vendors.base import Attempt, Vendor

Answer: TypeAlias = str | SendResult | Callable[[Email, Attempt], SendResult]

_fakes: WeakValueDictionary[str, FakeVendor] = WeakValueDictionary()
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class VendorCall:
    """One attempt. ``recipients``: those that it went to, None for all."""

    email_id: str
    email: Email
    recipients: tuple[str, ...] | None = field(repr=False)
    outcome: Outcome


class FakeVendor:
    """A vendor for a test: ``config`` is its entry in the configuration's ``vendors``.

    ``script``: the answers to its calls, one after the other; the last one is repeated, and without
    any it accepts everything. An answer is a word of ``mailqueue.vendors.Outcome`` (``accepted``,
    ``unavailable``, ``unknown``, ``rejected``, …), a ``SendResult``, or a function that gets the
    ``Email`` and the ``Attempt`` and returns a ``SendResult``. A word other than ``accepted`` means
    that no complete answer came, so that ``unavailable`` makes the vendor unavailable at once.
    """

    def __init__(self, name: str, *script: Answer) -> None:
        self.name = name
        self.calls: list[VendorCall] = []
        self._script = [_checked(answer) for answer in script or ("accepted",)]
        self._lock = threading.Lock()
        self._token = str(next(_numbers))
        _fakes[self._token] = self

    def __repr__(self) -> str:
        return f"FakeVendor({self.name}, {len(self.calls)} calls)"

    @property
    def config(self) -> Any:
        """The mapping that stands for it in ``vendors``."""
        return {"name": self.name, "type": FAKE, "options": {"script": self._token}}

    @property
    def accepted(self) -> list[Email]:
        """The e-mails that it took, the first one first."""
        with self._lock:
            return [call.email for call in self.calls if call.outcome is Outcome.ACCEPTED]

    def answer(self, email: Email, attempt: Attempt) -> SendResult:
        """The next answer of the script."""
        with self._lock:
            answer = self._script[min(len(self.calls), len(self._script) - 1)]
            self.calls.append(
                VendorCall(attempt.email_id, email, attempt.recipients, Outcome.UNKNOWN)
            )
            number = len(self.calls) - 1
        result = _result(answer, email, attempt, f"{self.name}-{number + 1}")
        with self._lock:
            call = VendorCall(attempt.email_id, email, attempt.recipients, result.outcome)
            self.calls[number] = call
        return result


def _checked(answer: Answer) -> Answer:
    if isinstance(answer, str) and answer not in {*Outcome}:
        words = [str(word) for word in Outcome]
        hint = did_you_mean(answer, words)
        raise ValueError(f"{answer!r} is no outcome ({', '.join(words)}){hint}")
    return answer


def _result(answer: Answer, email: Email, attempt: Attempt, message_id: str) -> SendResult:
    if isinstance(answer, SendResult):
        return answer
    if not isinstance(answer, str):
        return answer(email, attempt)
    if answer == Outcome.ACCEPTED:
        return SendResult(outcome=Outcome.ACCEPTED, code="fake", message_id=message_id)
    return SendResult(outcome=Outcome(answer), code="fake", answered=False)


class ScriptedVendor(Vendor):
    """What the consumer makes of a ``FakeVendor``'s entry."""

    has_sandbox = True

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        """Ask the test's ``FakeVendor``."""
        fake = _fakes.get(str(self.config.options.get("script")))
        if fake is None:  # the test is over, or it is another process
            return SendResult(outcome=Outcome.UNAVAILABLE, code="no_script", answered=False)
        return fake.answer(email, attempt)

"""A vendor inside the consumer that notes when it was called, so that the clock is exact.

A line for each call in the file that ``options.file`` names: the time, the process, the vendor, the
e-mail. Lines of several processes do not mix: each is one write to the end of the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mailqueue.config import VendorConfig
from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.base import Attempt, Vendor

TYPE = "tests.noting_vendor:NotingVendor"


class NotingVendor(Vendor):
    """``options``: ``file``, and ``takes``, the seconds that a call takes."""

    def __init__(self, config: VendorConfig) -> None:
        super().__init__(config)
        path = config.options["file"]
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._takes = float(config.options.get("takes", 0.0))

    def send(self, email: Email, attempt: Attempt) -> SendResult:
        people = len(attempt.recipients or email.recipients)
        line = f"{time.time():.6f} {os.getpid()} {self.name} {attempt.email_id} {people}\n"
        os.write(self._file, line.encode())
        if self._takes:
            time.sleep(self._takes)
        return SendResult(outcome=Outcome.ACCEPTED, message_id=attempt.email_id)

    def close(self) -> None:
        os.close(self._file)


@dataclass(frozen=True, slots=True)
class Call:
    """One line."""

    at: float
    pid: int
    vendor: str
    email_id: str
    recipients: int


def calls(file: Path) -> Sequence[Call]:
    """All that was noted, in the order of time."""
    lines = (line.split() for line in file.read_text().splitlines())
    made = (Call(float(at), int(pid), v, e, int(n)) for at, pid, v, e, n in lines)
    return sorted(made, key=lambda call: call.at)


def most_within(times: Sequence[float], seconds: float) -> int:
    """The most calls in any window of so many seconds."""
    most = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most

"""The simulation that stands in for every vendor outside production.

Promises: opens no connection and takes no time of its own; ``options.simulated_delay`` (seconds)
makes it as slow as you like. Every e-mail is accepted.
"""

from __future__ import annotations

import time

from mailqueue.lifecycle.outcomes import Outcome, SendResult
from mailqueue.message import Email
from mailqueue.vendors.base import SIMULATED_DELAY, Attempt, Vendor


class Simulated(Vendor):
    """Accepts everything, sends nothing."""

    has_sandbox = True

    def send(self, email: Email, attempt: Attempt) -> SendResult:  # noqa: ARG002  # the port's
        """Accept the e-mail."""
        delay = self.config.options.get(SIMULATED_DELAY, 0)
        if delay:
            time.sleep(delay)
        return SendResult(
            outcome=Outcome.ACCEPTED,
            code="simulated",
            message_id=f"simulated-{attempt.email_id}",
        )

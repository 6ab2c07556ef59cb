"""The vendors with an HTTP API that the contract suite runs for."""

from __future__ import annotations

from tests.contract import mailgun, sendgrid

CASES = (sendgrid.CASE, mailgun.CASE)

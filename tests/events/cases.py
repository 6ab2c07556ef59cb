"""All vendors whose events are read, by type."""

from __future__ import annotations

from tests.events import mailgun, sendgrid

CASES = {
    "mailgun": mailgun.CASE,
    "sendgrid": sendgrid.CASE,
}

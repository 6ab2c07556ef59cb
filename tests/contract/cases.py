"""The vendors with an HTTP API that the contract suite runs for."""

from __future__ import annotations

from tests.contract import (
    azure,
    brevo,
    mailersend,
    mailgun,
    mailjet,
    mailtrap,
    mandrill,
    postmark,
    resend,
    scaleway,
    sendgrid,
    ses,
    smtp2go,
    sparkpost,
)

CASES = (
    azure.CASE,
    sendgrid.CASE,
    ses.CASE,
    mailgun.CASE,
    mailersend.CASE,
    mailtrap.CASE,
    mandrill.CASE,
    scaleway.CASE,
    smtp2go.CASE,
    brevo.CASE,
    mailjet.CASE,
    postmark.CASE,
    resend.CASE,
    sparkpost.CASE,
)

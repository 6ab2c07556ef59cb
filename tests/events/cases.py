"""All vendors whose events are read, by type."""

from __future__ import annotations

from tests.events import (
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

CASES = {
    "azure": azure.CASE,
    "brevo": brevo.CASE,
    "mailersend": mailersend.CASE,
    "mailgun": mailgun.CASE,
    "mailjet": mailjet.CASE,
    "mailtrap": mailtrap.CASE,
    "mandrill": mandrill.CASE,
    "postmark": postmark.CASE,
    "resend": resend.CASE,
    "scaleway": scaleway.CASE,
    "sendgrid": sendgrid.CASE,
    "ses": ses.CASE,
    "smtp2go": smtp2go.CASE,
    "sparkpost": sparkpost.CASE,
}

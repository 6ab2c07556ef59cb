"""The table of vendor types: for each its class, its own keys and what it can carry.

Decides: which types there are. A vendor is its adapter's file and one row here. The numbers are
those that the vendor documents; ``vendors.limits`` and ``vendors.labels`` apply them.
Promises: no I/O and no clients. A producer, which has no credentials, needs the table too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mailqueue.config import checks
from mailqueue.config.capacity import Capacity
from mailqueue.config.event_readers import (
    EVENTS_URL,
    SCALEWAY_EVENTS,
    SES_EVENTS,
    EventReader,
    signed,
    unsigned,
)
from mailqueue.config.keys import Key, Problems
from mailqueue.errors import did_you_mean

MIB = 1024 * 1024
CUSTOM_HEADERS, OWN_RETURN_PATH = "custom_headers", "own_return_path"


@dataclass(frozen=True, slots=True)
class VendorType:
    """One row: the path of the vendor's class (``module:Class``), its own keys, what it can carry.

    ``rule`` checks keys that depend on each other: key and problem, or None. ``needs_base_url``:
    the API has no address that all accounts share. What else belongs to one vendor stands here too,
    as a path if it needs a client, so that the table stays free of them. ``events``: how its events
    are read; None: they are not.
    """

    path: str
    keys: Mapping[str, Key]
    capacity: Capacity
    rule: Callable[[Mapping[str, Any]], tuple[str, str] | None] = checks.anything
    needs_base_url: bool = False
    events: EventReader | None = None

    def complete(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The own keys with their defaults; a default may depend on the keys before it."""
        values = dict(own)
        for name, key in self.keys.items():
            if values.get(name) is None:
                values[name] = key.default(values) if callable(key.default) else key.default
        return values

    def check(self, own: Mapping[str, Any], problems: Problems) -> None:
        """Add what is wrong with completed own keys. The rule runs only if each key is right."""
        key_problems = problems.under("")
        for name, key in self.keys.items():
            # "" is a value that was not needed when the file was read (secrets=False).
            key_problems.add(name, key.problem(own[name]) if own[name] != "" else None)
        if not key_problems and (problem := self.rule(own)):
            problems.add(*problem)


TLS_PORTS = {"starttls": 587, "implicit": 465, "none": 25}


def _smtp_port(keys: Mapping[str, Any]) -> int:
    """587 with `starttls`, 465 with `implicit`, 25 with `none`"""
    return TLS_PORTS.get(str(keys["tls"]), 587)


def _smtp_rule(keys: Mapping[str, Any]) -> tuple[str, str] | None:
    if (keys["username"] is None) != (keys["password"] is None):
        return "password", "username and password belong together"
    is_exposed = keys["tls"] == "none" and keys["password"] is not None
    if is_exposed and keys["host"] and not checks.is_loopback(keys["host"]):
        return "tls", "a password without TLS is allowed for loopback hosts only"
    if keys["client_key"] is not None and keys["client_cert"] is None:
        return "client_key", "needs client_cert"
    return None


def _ses_rule(keys: Mapping[str, Any]) -> tuple[str, str] | None:
    if (keys["access_key_id"] is None) != (keys["secret_access_key"] is None):
        return "secret_access_key", "access_key_id and secret_access_key belong together"
    if keys["session_token"] is not None and keys["access_key_id"] is None:
        return "session_token", "needs access_key_id and secret_access_key"
    return None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OFFICE = (
    *("presentationml.presentation", "presentationml.slideshow", "presentationml.template"),
    *("spreadsheetml.sheet", "spreadsheetml.template"),
)
_SCALEWAY_TYPES = frozenset(
    {
        *("application/acad", "application/acad-template", "application/autocad_dwg"),
        *("application/autocad_dxf", "application/dwf", "application/dxf", "application/ics"),
        *("application/pdf", "application/pkcs10", "application/pkcs7-mime"),
        *("application/pkcs7-signature", "application/vnd.dwt", "application/vnd.ms-excel"),
        *("application/vnd.ms-powerpoint", "application/vnd.oasis.opendocument.spreadsheet"),
        *(f"application/vnd.openxmlformats-officedocument.{kind}" for kind in _OFFICE),
        *("application/x-dwf", "application/x-dwg", "application/x-dwt", "application/x-dxf"),
        *("application/x-pdf", "application/x-pkcs12", "application/x-pkcs7-certificates"),
        *("application/x-pkcs7-certreqresp", "application/x-pkcs7-crl"),
        *("application/x-pkcs7-mime", "application/x-pkcs7-signature", "application/xml"),
        *("image/gif", "image/jpeg", "image/jpg", "image/png", "image/svg+xml"),
        *("image/vnd.dwg", "image/vnd.dxf", "model/vnd.dwf"),
        *("text/calendar", "text/csv", "text/html", "text/plain", "text/xml"),
    }
)

_BREVO_EXTENSIONS = _words(
    """
    xlsx xls ods docx docm doc csv pdf txt gif jpg jpeg png tif tiff rtf bmp cgm css shtml html htm
    zip xml ppt pptx tar ez ics mobi msg pub eps odt mp3 m4a m4v wma ogg flac wav aif aifc aiff mp4
    mov avi mkv mpeg mpg wmv pkpass xlsm
    """
)
_MAILJET_HEADERS = _words(
    """
    sender message-id date
    delivered-to domainkey-status received-spf authentication-results user-agent x-mailer list-id
    x-mailjet-prio x-mailjet-debug x-mailjet-trackopen x-mailjet-trackclick x-mailjet-segmentation
    x-mailjet-campaign x-mj-customid x-mj-eventpayload x-mj-vars x-mj-templateerrordeliver
    x-mj-templateerrorreporting x-mj-templatelanguage x-mj-templateid x-mj-workflowid x-mj-mid
    x-mj-errormessage x-mj-statisticscontactslistid x-feedback-id x-csa-complaints
    """
)

_API_KEY = Key(str, "the account's API key", required=True, secret=True)

VENDOR_TYPES: Mapping[str, VendorType] = {
    "azure": VendorType(
        "mailqueue.vendors.azure:Azure",
        {
            "access_key": Key(
                str, "the resource's key", checks.base64_key, required=True, secret=True
            )
        },
        Capacity(recipients=50, size=10 * MIB, needs_to=True, tags=0, metadata=0),
        needs_base_url=True,
        events=unsigned("azure:AzureEvents"),
    ),
    "brevo": VendorType(
        "mailqueue.vendors.brevo:Brevo",
        {"api_key": _API_KEY},
        Capacity(
            recipients=99,
            needs_to=True,
            needs_subject=True,
            needs_body=True,
            name_length=70,
            templated=frozenset({"headers", "bodies"}),
            extensions=_BREVO_EXTENSIONS,
            utf8_files=True,
            inline=False,
            text_only=False,
            reply_to=1,
            ascii_headers=True,
            reserved_headers=frozenset(
                {"idempotencykey", "sender.ip", "x-mailin-custom", "x-sib-sandbox"}
            ),
            metadata=0,
        ),
        events=unsigned("brevo:BrevoEvents"),
    ),
    "mailersend": VendorType(
        "mailqueue.vendors.mailersend:MailerSend",
        {"api_key": _API_KEY},
        Capacity(
            to=50,
            cc=10,
            bcc=10,
            size=25 * MIB,
            needs_to=True,
            needs_subject=True,
            subject_length=998,
            needs_body=True,
            names_tell_types=True,
            utf8_files=True,
            reply_to=1,
            headers=False,  # on its largest plans only
            by_plan=(CUSTOM_HEADERS, "headers"),
            tags=4,  # of five, one is our id
            metadata=0,
        ),
        events=signed("mailersend:MailerSendEvents"),
    ),
    "mailgun": VendorType(
        "mailqueue.vendors.mailgun:Mailgun",
        {"api_key": _API_KEY, "domain": Key(str, "the sending domain", checks.host, required=True)},
        Capacity(
            recipients=1000,
            envelope_recipients=True,
            size=25 * MIB,
            needs_to=True,
            tags=3,
            tag_length=128,
            ascii_tags=True,
            encoded_tags=True,
            options_size=16 * 1024,  # o:, h:, v: and t: fields
        ),
        events=signed("mailgun:MailgunEvents"),
    ),
    "mailjet": VendorType(
        "mailqueue.vendors.mailjet:Mailjet",
        {
            "api_key": _API_KEY,
            "secret_key": Key(str, "the API key's secret", required=True, secret=True),
        },
        Capacity(
            to=50,
            cc=50,
            bcc=50,
            size=15 * MIB,
            unicode_mailboxes=True,
            needs_to=True,
            needs_body=True,
            subject_length=255,
            empty_attachments=False,
            utf8_files=True,
            reply_to=1,
            reserved_headers=_MAILJET_HEADERS,
            tags=1,
        ),
        events=unsigned("mailjet:MailjetEvents"),
    ),
    "mailtrap": VendorType(
        "mailqueue.vendors.mailtrap:Mailtrap",
        {"api_key": _API_KEY},
        Capacity(
            size=10 * MIB,
            needs_subject=True,
            needs_body=True,
            tags=1,
            tag_length=255,
            metadata_size=1000,
        ),
        events=signed("mailtrap:MailtrapEvents"),
    ),
    "mandrill": VendorType(
        "mailqueue.vendors.mandrill:Mandrill",
        {"api_key": _API_KEY},
        Capacity(
            envelope_recipients=True,
            subject_length=998,
            inline_images_only=True,
            tag_length=50,
            metadata_size=250,
            underscore_labels=False,
        ),
        events=signed("mandrill:MandrillEvents", url=EVENTS_URL),
    ),
    "postmark": VendorType(
        "mailqueue.vendors.postmark:Postmark",
        {
            "api_key": Key(str, "the server's API token", required=True, secret=True),
            "message_stream": Key(str, "the message stream's id"),
        },
        Capacity(
            recipients=50,
            size=10 * MIB,
            body_size=5 * MIB,
            needs_body=True,
            tags=1,
            tag_length=1000,
            metadata=9,  # of ten, one is our id
            metadata_name=20,
            metadata_value=80,
            caseless_metadata=True,
        ),
        events=unsigned("postmark:PostmarkEvents"),
    ),
    "resend": VendorType(
        "mailqueue.vendors.resend:Resend",
        {"api_key": _API_KEY},
        Capacity(
            to=50,
            size=40 * MIB,
            needs_to=True,
            needs_subject=True,
            needs_body=True,
            names_tell_types=True,
            tags=24,  # of 75 labels in all, one is our id
            metadata=50,
            word_size=189,  # 256 characters, in base64 with its mark
        ),
        events=signed("resend:ResendEvents"),
    ),
    "scaleway": VendorType(
        "mailqueue.vendors.scaleway:Scaleway",
        {
            "secret_key": Key(str, "the API key's secret", required=True, secret=True),
            "project_id": Key(str, "the Project's id", required=True),
            "region": Key(str, "the region of the API", checks.host, "fr-par"),
        },
        Capacity(
            needs_subject=True,
            needs_body=True,
            shortest_text=10,
            inline=False,
            attachments=10,
            attachments_size=2_000_000,
            attachment_types=_SCALEWAY_TYPES,
            tags=0,
            metadata=0,
        ),
        events=SCALEWAY_EVENTS,
    ),
    "sendgrid": VendorType(
        "mailqueue.vendors.sendgrid:SendGrid",
        {"api_key": _API_KEY},
        Capacity(
            recipients=1000,
            size=30 * MIB,
            needs_to=True,
            needs_subject=True,
            needs_body=True,
            empty_attachments=False,
            utf8_files=True,
            plain_content_ids=True,
            reserved_headers=frozenset({"x-sg-id", "x-sg-eid"}),
            tags=10,
            tag_length=255,
            ascii_tags=True,
            metadata_size=9_000,  # 10,000 less what the names may get in front of them
        ),
        events=signed("sendgrid:SendGridEvents"),
    ),
    "ses": VendorType(
        "mailqueue.vendors.ses:Ses",
        {
            "region": Key(str, "the AWS region", checks.region, required=True),
            "access_key_id": Key(
                str, "without it: the environment's keys, else botocore's", secret=True
            ),
            "secret_access_key": Key(str, "needs `access_key_id`", secret=True),
            "session_token": Key(str, "for temporary keys", secret=True),
            "configuration_set": Key(
                str, "the configuration set that publishes events", checks.configuration_set
            ),
        },
        Capacity(
            alternatives=True,
            recipients=50,
            envelope_recipients=True,
            bounce_address=True,  # it forwards bounces there
            quoted_mailboxes=True,  # in MIME, and it speaks of RFC 2822 addresses
            size=40 * MIB,
            word_size=189,  # 256 characters, in base64 with its mark
        ),
        rule=_ses_rule,
        events=SES_EVENTS,
    ),
    "smtp2go": VendorType(
        "mailqueue.vendors.smtp2go:Smtp2Go",
        {"api_key": _API_KEY},
        Capacity(
            to=100,
            cc=100,
            bcc=100,
            size=50 * MIB,
            needs_to=True,
            needs_body=True,
            inline_images_only=True,
            tags=0,
            metadata=0,
        ),
        events=unsigned("smtp2go:Smtp2GoEvents"),
    ),
    "smtp": VendorType(
        "mailqueue.vendors.smtp:Smtp",
        {
            "host": Key(str, "the server's host name or IP address", checks.host, required=True),
            "tls": Key(
                str, "`starttls`, `implicit` or `none`", checks.one_of(*TLS_PORTS), "starttls"
            ),
            "port": Key(int, "the server's port", checks.between(1, 65535), _smtp_port),
            "username": Key(str, "user name of the login; needs `password`"),
            "password": Key(str, "password of the login; needs `username`", secret=True),
            "helo": Key(
                str, "our name in EHLO, instead of the host's full name or address", checks.helo
            ),
            "client_cert": Key(str, "PEM file of a certificate to show the server", checks.path),
            "client_key": Key(str, "PEM file of its private key, if it is separate", checks.path),
            "connections": Key(
                int,
                "most connections at a time, of all processes of a host together",
                checks.between(1, 1000),
            ),
        },
        Capacity(
            partial_recipients=True,
            envelope_recipients=True,
            bounce_address=True,
            null_sender=True,
            unicode_mailboxes=True,
            quoted_mailboxes=True,
            alternatives=True,
            tags=0,
            metadata=0,
        ),
        rule=_smtp_rule,
    ),
    "sparkpost": VendorType(
        "mailqueue.vendors.sparkpost:SparkPost",
        {"api_key": _API_KEY},
        Capacity(
            envelope_recipients=True,
            by_plan=(OWN_RETURN_PATH, "bounce_address"),  # others keep only its domain
            sender_name_size=255,
            size=20 * MIB,
            needs_subject=True,
            needs_body=True,
            templated=frozenset({"headers"}),
            # It puts its own in their place, without a word.
            reserved_headers=frozenset({"list-unsubscribe", "list-unsubscribe-post"}),
            tags=1,
            tag_size=64,
            metadata_size=10_000,
        ),
        events=unsigned("sparkpost:SparkPostEvents"),
    ),
}


def vendor_type(name: str) -> str | None:
    """The check of ``vendors[].type``: a type of the table, or the path of a class."""
    if name in VENDOR_TYPES or re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", name):
        return None
    types = ", ".join(sorted(VENDOR_TYPES))
    hint = did_you_mean(name, VENDOR_TYPES)
    return f'unknown vendor type{hint} (known: {types}, or "module:Class")'

"""What each type of vendor can carry: the numbers, and nothing else.

Decides: the row of each type, out of what the vendor documents. ``limits`` reads them.

Promises: no I/O, no clients: a producer that has no credentials needs them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one type of vendor takes; None is no limit (that anybody told us of).

    ``size`` counts what goes over the wire, attachments in base64. ``some`` is True where an
    e-mail can be sent to some of its recipients only, with all of them shown in its headers.
    ``shortest_text`` is the least length of subject, text and HTML, each if it is there;
    ``name_length`` is of a display name in the form that Brevo takes; ``attachments_size`` counts
    the files' own bytes. Lengths are in characters, sizes in bytes.
    ``alternatives``: forms other than text and HTML (an invitation, AMP) have a place beside these.
    ``quoted_mailboxes``: an address may have punctuation in quotes (``"a@b, c"@example.com``).

    Tags and metadata never keep an e-mail from a vendor. What is said of them is what the vendor
    keeps to itself, beside our own id: it does without the others. ``tags`` and ``metadata`` count
    them; ``ascii_tags``: it would change others, so they go in ASCII if the vendor is to have them
    (``packed_tags``); ``underscore_labels``: one may begin with one;
    ``word_size`` is of a single tag, name or value; ``metadata_size`` of all entries as JSON;
    ``options_size`` of these, the tags and the headers together; ``caseless_metadata``: names that
    differ in upper and lower case only are one.
    """

    recipients: int | None = None
    to: int | None = None
    cc: int | None = None
    bcc: int | None = None
    name_length: int | None = None
    sender_name_size: int | None = None
    size: int | None = None
    body_size: int | None = None
    templated: frozenset[str] = frozenset()
    some: bool = False
    unicode_mailboxes: bool = False
    quoted_mailboxes: bool = False
    needs_to: bool = False
    needs_subject: bool = False
    needs_body: bool = False
    subject_length: int | None = None
    shortest_text: int = 0
    attachments: int | None = None
    attachments_size: int | None = None
    attachment_types: frozenset[str] | None = None
    extensions: frozenset[str] | None = None
    names_tell_types: bool = False
    utf8_files: bool = False
    plain_content_ids: bool = False
    empty_attachments: bool = True
    inline: bool = True
    inline_images_only: bool = False
    text_only: bool = True
    alternatives: bool = False
    reply_to: int | None = None
    headers: bool = True
    ascii_headers: bool = False
    options_size: int | None = None
    reserved_headers: frozenset[str] = frozenset()
    tags: int | None = None
    tag_length: int | None = None
    tag_size: int | None = None
    underscore_labels: bool = True
    metadata: int | None = None
    metadata_name: int | None = None
    metadata_value: int | None = None
    metadata_size: int | None = None
    caseless_metadata: bool = False
    word_size: int | None = None
    ascii_tags: bool = False
    packed_tags: bool = False


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
_MAILJET_HEADERS = _words(  # beside those reserved everywhere
    """
    sender message-id date
    delivered-to domainkey-status received-spf authentication-results user-agent x-mailer list-id
    x-mailjet-prio x-mailjet-debug x-mailjet-trackopen x-mailjet-trackclick x-mailjet-segmentation
    x-mailjet-campaign x-mj-customid x-mj-eventpayload x-mj-vars x-mj-templateerrordeliver
    x-mj-templateerrorreporting x-mj-templatelanguage x-mj-templateid x-mj-workflowid x-mj-mid
    x-mj-errormessage x-mj-statisticscontactslistid x-feedback-id x-csa-complaints
    """
)

CAPACITY: Mapping[str, Capacity] = {
    "azure": Capacity(recipients=50, size=10 * MIB, needs_to=True, tags=0, metadata=0),
    "brevo": Capacity(
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
    "mailersend": Capacity(
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
        tags=4,  # of five, one is our id
        metadata=0,
    ),
    "mailgun": Capacity(
        recipients=1000,
        size=25 * MIB,
        needs_to=True,
        tags=3,
        tag_length=128,
        ascii_tags=True,
        packed_tags=True,
        options_size=16 * 1024,  # o:, h:, v: and t: fields
    ),
    "mailjet": Capacity(
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
    "mailtrap": Capacity(
        size=10 * MIB,
        needs_subject=True,
        needs_body=True,
        tags=1,
        tag_length=255,
        metadata_size=1000,
    ),
    "mandrill": Capacity(
        subject_length=998,
        inline_images_only=True,
        tag_length=50,
        metadata_size=250,
        underscore_labels=False,
    ),
    "postmark": Capacity(
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
    "resend": Capacity(
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
    "scaleway": Capacity(
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
    "sendgrid": Capacity(
        recipients=1000,
        size=30 * MIB,
        needs_to=True,
        needs_subject=True,
        needs_body=True,
        empty_attachments=False,
        utf8_files=True,
        plain_content_ids=True,
        reserved_headers=frozenset({"x-sg-id", "x-sg-eid"}),  # beside those reserved everywhere
        tags=10,
        tag_length=255,
        ascii_tags=True,
        metadata_size=9_000,  # 10,000 less what the names may get in front of them
    ),
    "ses": Capacity(
        alternatives=True,
        recipients=50,
        quoted_mailboxes=True,  # in MIME, and it speaks of RFC 2822 addresses
        size=40 * MIB,
        word_size=189,  # 256 characters, in base64 with its mark
    ),
    "smtp2go": Capacity(
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
    "smtp": Capacity(
        some=True,
        unicode_mailboxes=True,
        quoted_mailboxes=True,
        alternatives=True,
        tags=0,
        metadata=0,
    ),
    "sparkpost": Capacity(
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
}

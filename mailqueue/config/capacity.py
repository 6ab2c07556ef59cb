"""What one type of vendor can carry: the columns of docs/vendors.md.

Decides: which limits there are. ``vendor_types`` has the numbers, ``vendors.limits`` and
``vendors.labels`` apply them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one type of vendor takes. None: no documented limit.

    Lengths are in characters, sizes in bytes. ``by_plan``: an option of the configuration that says
    what the account's plan has, and the name of what is then true.
    """

    by_plan: tuple[str, str] | None = None

    # Addresses
    recipients: int | None = None  # of all kinds together
    to: int | None = None
    cc: int | None = None
    bcc: int | None = None
    reply_to: int | None = None
    needs_to: bool = False
    partial_recipients: bool = False  # an attempt may go to some of those that the headers show
    envelope_recipients: bool = False  # the headers may show some who are not sent to
    bounce_address: bool = False  # it may be another one than the From
    null_sender: bool = False
    unicode_mailboxes: bool = False
    quoted_mailboxes: bool = False  # punctuation in quotes: "a@b, c"@example.com
    name_length: int | None = None  # of a display name, in the form that Brevo takes
    sender_name_size: int | None = None

    # Subject and bodies
    size: int | None = None  # on the wire: attachments in base64
    body_size: int | None = None  # of text and HTML, each
    needs_subject: bool = False
    needs_body: bool = False
    subject_length: int | None = None
    shortest_text: int = 0  # of subject, text and HTML, each if present
    text_only: bool = True  # an e-mail may be without HTML
    alternatives: bool = False  # forms beside text and HTML: an invitation, AMP
    templated: frozenset[str] = frozenset()  # where it replaces {{...}}: "headers", "bodies"

    # Attachments
    attachments: int | None = None
    attachments_size: int | None = None  # of the files themselves
    attachment_types: frozenset[str] | None = None
    extensions: frozenset[str] | None = None
    names_tell_types: bool = False  # it takes the type from the file's name
    utf8_files: bool = False  # it reads text files as UTF-8
    plain_content_ids: bool = False  # no comma or semicolon in them
    empty_attachments: bool = True
    inline: bool = True
    inline_images_only: bool = False

    # Headers
    headers: bool = True
    ascii_headers: bool = False
    reserved_headers: frozenset[str] = frozenset()  # besides those reserved everywhere

    # Tags and metadata, besides our own id. A vendor gets those that fit, the others are left out.
    tags: int | None = None
    tag_length: int | None = None
    tag_size: int | None = None
    ascii_tags: bool = False  # it would change other characters
    encoded_tags: bool = False  # it gets other tags encoded in ASCII
    underscore_labels: bool = True  # a tag or name may begin with "_"
    metadata: int | None = None
    metadata_name: int | None = None
    metadata_value: int | None = None
    metadata_size: int | None = None  # of all entries as JSON
    caseless_metadata: bool = False  # names that differ in case only are one
    word_size: int | None = None  # of a single tag, name or value
    options_size: int | None = None  # of headers, tags and metadata together

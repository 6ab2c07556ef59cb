"""What a valid e-mail is, and the MIME message made of it.

``message`` is the file to read: ``Email``, and ``EmailDict`` with every field that ``send()`` takes
and its limits. The others hold the parts:

==================  ===============================================================================
``fields``          what each field may hold: one function for each
``addresses``       ``Address``: which addresses are valid
``envelope``        ``Envelope``: who is really sent to, and who hears of bounces
``attachments``     ``Attachment`` and ``Alternative``: which files and other forms are valid
``headers``         what may stand in a header; encoded words
``structured``      headers with a grammar of their own, such as List-Unsubscribe
``file_types``      the content type of a file name, and the reverse
``stdlib_message``  an ``email.message.EmailMessage`` as a mapping; ``raw_headers`` and
                    ``parameters`` read its headers
``mime``            the e-mail as bytes, for SMTP
==================  ===============================================================================
"""

from __future__ import annotations

from mailqueue.message.addresses import Address
from mailqueue.message.attachments import Alternative, Attachment
from mailqueue.message.envelope import Envelope
from mailqueue.message.message import (
    AlternativeDict,
    AttachmentDict,
    Email,
    EmailDict,
    EnvelopeDict,
)

__all__ = [
    "Address",
    "Alternative",
    "AlternativeDict",
    "Attachment",
    "AttachmentDict",
    "Email",
    "EmailDict",
    "Envelope",
    "EnvelopeDict",
]

"""What an e-mail is: its fields, the rules for them, and the MIME message made of it."""

from __future__ import annotations

from mailqueue.message.headers import Address
from mailqueue.message.message import (
    Alternative,
    AlternativeDict,
    Attachment,
    AttachmentDict,
    Email,
    EmailDict,
)

__all__ = [
    "Address",
    "Alternative",
    "AlternativeDict",
    "Attachment",
    "AttachmentDict",
    "Email",
    "EmailDict",
]

"""Building blocks of a request: the parts of an e-mail as the vendors' APIs take them.

Decides: each mailbox is named once, domains are in ASCII (IDNA), headers are plain ASCII.

Promises: equal e-mails make equal parts; the order is the e-mail's.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mailqueue.message import Address, Email, structured
from mailqueue.message.addresses import mailboxes


def unique_recipients(email: Email) -> dict[str, list[Address]]:
    """The recipients under ``"to"``, ``"cc"`` and ``"bcc"``, each mailbox only where it is first.

    A field without recipients is absent. Some vendors refuse a mailbox that is named twice, others
    send it two copies. To the vendors' APIs ``Ann@`` and ``ann@`` are one mailbox; to SMTP two.
    """
    return email.unique_recipients(ignore_case=True)


def named_address(address: Address) -> dict[str, str]:
    """``{"email": "ann@example.org", "name": "Ann"}``; without ``name`` if there is none."""
    entry = {"email": address.ascii}
    return {**entry, "name": address.name} if address.name else entry


def mailbox_text(address: Address) -> str:
    """``Ann <ann@example.org>``; the name is not encoded."""
    return str(Address(address.name, address.ascii))


def mailbox_list(addresses: Iterable[Address]) -> str:
    """``Ann <ann@example.org>, Bob <bob@example.org>``; names are not encoded."""
    return ", ".join(map(mailbox_text, addresses))


def ascii_headers(email: Email) -> dict[str, str]:
    """The e-mail's own headers as they stand in a message, in plain ASCII."""
    return {name: structured.encode(name, value) for name, value in email.headers.items()}


def encoded_headers(email: Email) -> dict[str, str]:
    """The same with Reply-To, for a vendor that has no other place for it."""
    headers = ascii_headers(email)
    if email.reply_to:
        headers["Reply-To"] = mailboxes(email.reply_to)
    return headers


def base64_text(content: bytes) -> str:
    """The content in base64, as text."""
    return b64encode(content).decode("ascii")


def basic_login(user: str, password: str) -> Mapping[str, str]:
    """The header ``Authorization`` with user and password (RFC 7617)."""
    return {"Authorization": f"Basic {base64_text(f'{user}:{password}'.encode())}"}


def without_empty(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload without its empty values: several vendors refuse these."""
    return {name: value for name, value in payload.items() if value}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on it: mappings are merged, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        present = result.get(key)  # a list is replaced: which of its entries are meant is unknown
        if isinstance(present, Mapping) and isinstance(value, Mapping):
            result[key] = merge(present, value)
        else:
            result[key] = value
    return result


def is_earlier(time: Any, date: datetime | None) -> bool:
    """Whether a vendor's ``time`` of a message is of long before the e-mail with this ``date``.

    The id of an e-mail with an idempotency key may have been that of an earlier one.
    """
    try:
        at = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        return False
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return date is not None and at < date - timedelta(days=1)

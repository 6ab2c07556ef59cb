"""Reading a vendor's answer with care: each value may be missing, or of any type.

Decides: a value of another type than expected reads as if it were absent.

Promises: never raises; recipients are named as the e-mail has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mailqueue.message import Email


def text(value: Any) -> str:
    """The value if it is text, else ``""``."""
    return value if isinstance(value, str) else ""


def identifier(value: Any) -> str | None:
    """An id, text or a number, as text; None: it is no id."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return str(value) or None


def natural(value: Any) -> int | None:
    """A count; None: it is none."""
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if right else None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list; other elements are left out."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def first(values: Any) -> Any:
    """The first element of a list; None: it is no list, or is empty."""
    return values[0] if isinstance(values, list) and values else None


def code_and_text(*parts: str) -> str:
    """Code and message as one text, without those that are empty: ``code: message``."""
    return ": ".join(filter(None, parts))


def every_recipient(email: Email) -> tuple[str, ...]:
    """The addresses of all recipients, as the e-mail has them."""
    return tuple(person.address for person in email.recipients)


def matching_recipients(email: Email, addresses: Iterable[Any]) -> tuple[str, ...]:
    """The recipients among ``addresses``, as the e-mail has them. Vendors answer in lower case."""
    lower = {address.lower() for address in addresses if isinstance(address, str)}
    people = email.recipients if lower else ()
    return tuple(p.address for p in people if lower & {p.address.lower(), p.ascii.lower()})

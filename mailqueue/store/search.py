"""Finding e-mails by a recipient.

Decides: what an address is compared with. With ``retention.searchable`` a new e-mail has the list
``recipients``: the addresses of To, Cc, Bcc and the envelope in their normal form, which an index
has. Of any other e-mail the addresses are compared one by one, without regard to case.

Promises: both find the same e-mails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mailqueue.message import Address
from mailqueue.store.suppressions import key_of
from mailqueue.store.transitions import Filter

RECIPIENTS = "recipients"
_FIELDS = ("to", "cc", "bcc")


def with_recipients(document: Mapping[str, Any]) -> dict[str, Any]:
    """A new e-mail with the list that is searched."""
    email = document["email"]
    texts = [text for name in _FIELDS for text in email.get(name, ())]
    texts += email.get("envelope", {}).get("recipients", ())
    keys = [key_of(Address.from_canonical(text)) for text in texts]
    return {**document, RECIPIENTS: list(dict.fromkeys(keys))}


def match(person: Address, *, indexed: bool) -> Filter:
    """The e-mails that name this person as a recipient; ``indexed``: new ones have the list."""
    spellings = _spellings(person)
    pattern = re.compile(rf"(^|<)({'|'.join(map(re.escape, spellings))})>?$", re.IGNORECASE)
    fields: Sequence[str] = [*(f"email.{name}" for name in _FIELDS), "email.envelope.recipients"]
    any_field: Filter = {"$or": [{field: pattern} for field in fields]}
    if not indexed:
        return any_field
    return {"$or": [{RECIPIENTS: key_of(person)}, {RECIPIENTS: None, **any_field}]}


def _spellings(person: Address) -> list[str]:
    """With the domain as it was given, in ASCII, and decoded."""
    local, _, domain = person.address.rpartition("@")
    in_ascii = person.ascii.rpartition("@")[2]
    domains = {domain.lower(): None, in_ascii.lower(): None}
    if "xn--" in in_ascii:
        import idna

        domains[idna.decode(in_ascii)] = None
    return [f"{local}@{each}" for each in domains]

"""Finding e-mails by what they have in common, also by a recipient.

Decides: what an address is compared with. With ``retention.searchable`` a new e-mail has the list
``recipients``: the addresses of To, Cc, Bcc and the envelope in their normal form, which an index
has. Of any other e-mail the addresses are compared one by one, without regard to case.

Promises: both find the same e-mails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailqueue.message import Address
from mailqueue.store.suppressions import key_of
from mailqueue.store.transitions import Filter

RECIPIENTS = "recipients"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What e-mails have in common; what is empty does not matter.

    ``vendor``: one that was asked. ``since``, ``before``: stored from then on, until then.
    """

    status: str | None = None
    reason: str | None = None
    vendor: str | None = None
    tag: str | None = None
    env: str | None = None
    callback: str | None = None
    to: Address | None = field(default=None, repr=False)
    since: datetime | None = None
    before: datetime | None = None

    def match(self, *, indexed: bool) -> Filter:
        """The filter of MongoDB; empty if nothing matters. ``indexed``: see ``match``."""
        fields = {
            "status": self.status,
            "reason": self.reason,
            "attempts.vendor": self.vendor,
            "email.tags": self.tag,
            "env": self.env,
            "callbacks.state": self.callback,
        }
        filters: Filter = {name: value for name, value in fields.items() if value}
        if self.to is not None:
            filters |= match(self.to, indexed=indexed)
        bounds = {"$gte": self.since, "$lte": self.before}
        if times := {side: at for side, at in bounds.items() if at is not None}:
            filters["created_at"] = times
        return filters


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

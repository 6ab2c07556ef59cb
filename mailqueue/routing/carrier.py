"""A configured vendor as the router sees it: a value, without keys or connections.

Decides: what a vendor offers. Where its class raises when it is asked, it offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailqueue.message import Email
from mailqueue.vendors import answers, limits
from mailqueue.vendors.base import Vendor


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """What can be known of a vendor before an e-mail is there, and whether it can take one.

    ``key_life``: the seconds for which an idempotency key is surely known there, half of what is
    documented; None: it knows none. ``can_carry`` is the vendor's own, and may raise anything.
    """

    name: str
    partial_recipients: bool
    key_life: float | None
    has_lookup: bool
    can_carry: Callable[[Email], str | None]

    @classmethod
    def of(cls, vendor: Vendor) -> Carrier:
        """The carrier that this vendor is."""
        life = answers.seconds(_offer(vendor, "key_life"))
        return cls(
            name=vendor.name,
            partial_recipients=limits.capacity(vendor.config.type).partial_recipients,
            key_life=None if life is None else life / 2,
            has_lookup=_offer(vendor, "lookup") is not None,
            can_carry=lambda email: vendor.can_carry(email),  # noqa: PLW0108  # looked up late
        )


def _offer(vendor: Vendor, name: str) -> Any:
    try:
        return getattr(vendor, name, None)
    except BaseException:  # noqa: BLE001  # it may be a property of the user's own
        return None

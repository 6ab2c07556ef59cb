"""The route of a new e-mail: which vendors it may go to.

Decides: the vendors that the caller names count, else those of the first of ``routes`` that
matches; else all. It is decided once, and stored: who changes ``routes`` later changes nothing for
e-mails that are stored.

Promises: pure. What nobody can serve is told before it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailqueue.config import Config, VendorConfig
from mailqueue.config.routes import Route, domain_of
from mailqueue.message import Email
from mailqueue.vendors import limits

Names = tuple[str, ...]


def route_of(email: Email, names: Names | None, config: Config) -> Names | None:
    """The names of the vendors; None: all."""
    if names is not None or not config.routes:
        return names
    return next((route.vendors for route in config.routes if _matches(route, email)), None)


def _matches(route: Route, email: Email) -> bool:
    return all(not _values(name, email).isdisjoint(wanted) for name, wanted in route.match.items())


def _values(name: str, email: Email) -> set[str]:
    if name == "tag":
        return set(email.tags)
    people = [email.from_] if name == "from_domain" else email.recipients
    return {domain_of(person) for person in people}


def problem(email: Email, route: Names | None, config: Config) -> tuple[str, str] | None:
    """The field and the problem for which nobody can serve the e-mail; None: somebody can."""
    if route is None or not config.vendors:
        return limits.nobody_carries(config.vendors, email)
    vendors = _configured(route, config.vendors)
    if len(vendors) < len(route):
        names = ", ".join(vendor.name for vendor in config.vendors)
        return "vendors", f"names a vendor that is not configured (configured: {names})"
    unsuitable = limits.nobody_carries(vendors, email)
    return None if unsuitable is None else ("vendors", unsuitable[1])


def _configured(route: Names, vendors: Sequence[VendorConfig]) -> list[VendorConfig]:
    return [vendor for vendor in vendors if vendor.name in route]

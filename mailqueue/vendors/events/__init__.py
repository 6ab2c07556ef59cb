"""What vendors tell of e-mails after their yes: one port (``source``), one file per vendor.

A file verifies that a request is the vendor's, and reads the events in it. It does nothing else:
``mailqueue.events`` stores them. The settings are those of ``vendors[].events``.
"""

from __future__ import annotations

from importlib import import_module

from mailqueue.config import VendorConfig
from mailqueue.config.vendor_types import VENDOR_TYPES
from mailqueue.vendors.events.source import EventSource


def load(vendor: VendorConfig) -> EventSource | None:
    """The reader of this vendor's events; None: its entry has no ``events``.

    Raises ``ConfigError`` where a secret is empty: everything would be signed with it.
    """
    row = VENDOR_TYPES.get(vendor.type)
    if row is None or row.events is None or vendor.events is None:
        return None
    module, _, name = row.events.path.partition(":")
    source: type[EventSource] = getattr(import_module(module), name)
    return source(vendor)

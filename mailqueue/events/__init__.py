"""After the yes: what vendors' events tell of an e-mail, stored and merged into its document.

``mailqueue.vendors.events`` reads what vendors send; ``event_store`` keeps it.
"""

from __future__ import annotations

from mailqueue.events.event_store import EventStore

__all__ = ["EventStore"]

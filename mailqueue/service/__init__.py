"""What all server processes share: signals, the service manager, the port, the keys of callers.

``server`` is the frame that each of them runs in; ``systemd`` is the service manager's side, which
the consumer has, too; ``keys`` says who calls.
"""

from __future__ import annotations

from mailqueue.config.checks import is_loopback
from mailqueue.service.server import Service, listen, room_for, run, run_async, url
from mailqueue.service.systemd import ServiceManager, Signals

__all__ = [
    "Service",
    "ServiceManager",
    "Signals",
    "is_loopback",
    "listen",
    "room_for",
    "run",
    "run_async",
    "url",
]

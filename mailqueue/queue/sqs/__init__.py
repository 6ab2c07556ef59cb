"""Amazon SQS as the queue. ``client`` asks the service, ``broker`` and ``events`` are the port."""

from __future__ import annotations

"""A process that may crash: ``python -m tests.faults.child ROLE CONFIG POINT``.

``ROLE``: a consumer sends one e-mail at a time. A producer is an application that sends three
e-mails under idempotency keys and prints each id that it was given. intake stores events of other
programs, events stores two of a vendor's, and a responder posts callbacks. ``POINT``: see
``seams``, or -.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from mailqueue import Producer, callbacks, intake, logs
from mailqueue.config import Config
from mailqueue.consumer import Consumer
from mailqueue.events import EventStore
from mailqueue.queue import announcer
from mailqueue.store.document import PRODUCTION
from mailqueue.store.store import Store
from mailqueue.vendors.events.source import EventType, VendorEvent
from tests.faults import seams
from tests.stage import letter

EMAILS = 3
AT = datetime(2026, 5, 28, 20, 26, tzinfo=UTC)
BOUNCE = VendorEvent(
    key="b",
    type=EventType.BOUNCED_HARD,
    at=AT,
    recipient="ann@example.net",
    suppress="bounced",
)
LIFT = VendorEvent(
    key="l", type=EventType.RESUBSCRIBED, at=AT, recipient="bob@example.net", lift=True
)


def main(role: str, config: str, point: str) -> int:
    logs.configure()
    crash_at = seams.crash_at_port if Config.load(config).queue else seams.crash_at
    crash_at(point)
    if role == "consumer":
        return Consumer(config, concurrency=1).run()
    if role == "intake":
        return intake.run(Config.load(config))
    if role == "events":
        return store_events(Config.load(config))
    if role == "responder":
        return callbacks.run(Config.load(config))
    announcer.Announcer.REST = announcer.Announcer.REST_MAX = 0.0
    with Producer(config) as producer:
        for number in range(EMAILS):
            email_id = producer.send(letter(number), idempotency_key=f"number {number}")
            print(email_id, flush=True)  # noqa: T201  # for the test to read
    return 0


def store_events(config: Config) -> int:
    """A hard bounce and the end of an older one, as one request brings them."""
    store = Store(config.mongodb, env=PRODUCTION)
    EventStore(config, store).record("first", [BOUNCE, LIFT])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Testing an application that sends e-mail: no server, no configuration file, nothing leaves.

``Outbox`` keeps in memory what the application's producers send; the fixture ``mailqueue_outbox``
of the pytest plugin is one. ``FakeVendor`` is for tests of the whole way: a consumer in the test's
own process, vendors that answer by a script, and the queue in this process' memory (the type
``memory``), where ``put_event`` puts events for ``mailqueue intake``.
"""

from __future__ import annotations

from mailqueue.queue.memory import put_event
from mailqueue.testing.fake_vendor import FakeVendor, VendorCall
from mailqueue.testing.outbox import Outbox, SentEmail

__all__ = ["FakeVendor", "Outbox", "SentEmail", "VendorCall", "put_event"]

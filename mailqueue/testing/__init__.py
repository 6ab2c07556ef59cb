"""Testing an application that sends e-mail: no server, no configuration file, nothing leaves.

``Outbox`` keeps in memory what the application's producers send; the fixture ``mailqueue_outbox``
of the pytest plugin is one. ``FakeVendor`` and ``MemoryQueue`` are for tests of the whole way: a
consumer in the test's own process, vendors that answer by a script, and no beanstalkd.
"""

from __future__ import annotations

from mailqueue.testing.fake_vendor import FakeVendor, VendorCall
from mailqueue.testing.memory_queue import MemoryQueue
from mailqueue.testing.outbox import Outbox, SentEmail

__all__ = ["FakeVendor", "MemoryQueue", "Outbox", "SentEmail", "VendorCall"]

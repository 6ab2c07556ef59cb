"""How an e-mail gets in: validate it, store it durably, announce it.

``producer`` is what an application calls, ``submission`` reads what it hands in, ``group_commit``
merges the writes of many threads, ``storage`` stores and announces, ``stored_log``
says so in the log, ``status`` shows an e-mail.
"""

from __future__ import annotations

from mailqueue.producer.producer import Producer
from mailqueue.producer.submission import Priority

__all__ = ["Priority", "Producer"]

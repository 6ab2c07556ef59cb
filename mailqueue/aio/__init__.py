"""From asyncio: the producer with ``await``, on the loop's side of one writer thread.

``producer`` is what an application calls, ``pending`` is what the tasks of one loop wait for, and
``writer`` is the thread that stores what all loops of a process hand in.
"""

from __future__ import annotations

from mailqueue.aio.producer import AsyncProducer

__all__ = ["AsyncProducer"]

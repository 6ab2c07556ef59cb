"""How an e-mail gets out: reserve its job, claim it, send it, write down what came of it.

``delivery`` is the file to read first: the one value that goes from thread to thread. ``fetcher``,
``writer``, ``sender`` and ``sweeper`` are the threads, one class each. ``planner`` says what to do
about a delivery, ``slots`` how many a process may have, and ``memory`` how large they may be.
``pacer`` has those that wait for the send time of a limited vendor, and ``reporter`` counts what
came of the attempts. ``consumer`` is the process around them: its threads, its stop and its exit
code. ``affinity`` (to one CPU core), ``meter`` and ``hook`` serve the process.
"""

from __future__ import annotations

from mailqueue.consumer.consumer import Consumer, assemble, build_sweeper
from mailqueue.store.ends import EmailEnd

__all__ = ["Consumer", "EmailEnd", "assemble", "build_sweeper"]

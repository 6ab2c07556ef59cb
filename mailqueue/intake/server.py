"""The process of ``mailqueue intake``: one thread for each server of events.

Decides: when it starts (MongoDB and the queue must be reached), and how it stops: what was
reserved is stored and ended. Later outages are waited for.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from mailqueue import service
from mailqueue.config import Config, is_production
from mailqueue.config.reload import STORING, UNUSED, Source
from mailqueue.intake.intake import Intake
from mailqueue.logs import event
from mailqueue.producer.connections import Connections
from mailqueue.queue import open_events
from mailqueue.service import Service
from mailqueue.store import document
from mailqueue.store.store import Store

logger = logging.getLogger(__name__)

TICK = 0.2  # seconds


def run(config: Config, file: Path | None = None) -> int:
    """Store events until SIGTERM or SIGINT; returns the exit code.

    ``file``: where the configuration was read from; at SIGHUP it is read again.

    Raises ``Unavailable`` when MongoDB or the queue cannot be reached at the start,
    and ``ConfigError``.
    """
    return service.run("mailqueue intake", lambda frame: _serve(config, file, frame))


def _serve(config: Config, file: Path | None, frame: Service) -> None:
    stopping = threading.Event()
    level, env = logging.INFO, document.PRODUCTION
    if not is_production():
        level, env = logging.WARNING, document.SIMULATED
    with ExitStack() as stack:
        connections = stack.enter_context(closing(Connections(config, env, None)))
        store = connections.storage().store
        receivers = open_events(config, store=store if isinstance(store, Store) else None)
        threads = stack.enter_context(ThreadPoolExecutor(len(receivers)))
        store.ensure_indexes()
        intakes = [Intake(receiver, connections) for receiver in receivers]
        loops = [threads.submit(intake.run, stopping) for intake in intakes]
        if file is not None:
            frame.reload = partial(_reload, file, connections)
        try:
            event(logger, level, "intake.started", mode=env)
            frame.ready(", ".join(receiver.place for receiver in receivers))
            while not frame.is_stopping and not any(loop.done() for loop in loops):
                frame.keep_alive()
                wait(loops, TICK, FIRST_COMPLETED)
        finally:
            stopping.set()
    for loop in loops:
        loop.result()  # raises what ended it
    counts: Counter[str] = Counter()
    for intake in intakes:
        counts.update(intake.counts)
    event(logger, logging.INFO, "intake.stopped", **counts)


def _reload(file: Path, connections: Connections) -> None:
    """Read the configuration again, for the events from now on."""
    config = Source(file, {*STORING, "limits"}, {*UNUSED, "http", "smtp"}).read(connections.config)
    if config is not None:
        connections.config = config

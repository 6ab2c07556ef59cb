"""The process of ``mailqueue responder``: the dispatcher, its threads, and one that hears the tube.

Decides: when it starts (MongoDB must be reached; the queue need not: its jobs are hints), and how
it stops: what is claimed is posted and settled.

Promises: callbacks of simulated e-mails are posted outside production, those of others in it. No
vendor is called, so the vendors' secrets need not be set.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path

from mailqueue import service
from mailqueue.callbacks.due import DueCallbacks
from mailqueue.callbacks.responder import POLL, SWEEP, Responder
from mailqueue.config import Config, is_production
from mailqueue.config.reload import UNUSED, Source
from mailqueue.errors import ConfigError, QueueUnavailable
from mailqueue.logs import event
from mailqueue.queue import open_broker
from mailqueue.queue.broker import CALLBACKS, DELETED, Receiver
from mailqueue.service import Service
from mailqueue.store import document
from mailqueue.store.store import Store

logger = logging.getLogger(__name__)

TICK = 0.2  # seconds
OTHERS = UNUSED | {"vendors", "routes", "limits", "http", "smtp", "suppression"}
OTHERS |= {"retention.searchable"}
WAIT = 1  # second
BATCH = 200  # jobs that are ended together
PAUSE = 1.0  # seconds between two tries while the queue is away
SPARE = 15.0  # seconds of a claim, for a slow look-up of a host's name


def run(config: Config, file: Path | None = None) -> int:
    """Post callbacks until SIGTERM or SIGINT; returns the exit code.

    ``file``: where the configuration was read from; at SIGHUP it is compared with that.

    Raises ``ConfigError``, and ``StoreUnavailable`` if MongoDB cannot be reached at the start.
    """
    if not any(config.callbacks.secrets):
        problem = "required key is missing, or its variable is not set: it signs the callbacks"
        raise ConfigError([f"callbacks.secrets: {problem}"])
    return service.run("mailqueue responder", lambda frame: _serve(config, file, frame))


def _serve(config: Config, file: Path | None, frame: Service) -> None:
    level, env = logging.INFO, document.PRODUCTION
    if not is_production():
        level, env = logging.WARNING, document.SIMULATED
    receivers = open_broker(config, keep=0, suffix=CALLBACKS).receivers()
    stopping = threading.Event()
    store = Store(config.mongodb, env=env, callbacks=config.callbacks)
    with closing(store), ThreadPoolExecutor(len(receivers) + 1) as threads:
        lease = config.callbacks.timeout + config.mongodb.timeout + SPARE
        due = DueCallbacks(store, config.callbacks, lease)
        due.ensure_indexes()
        responder = Responder(due, config.callbacks, SWEEP if receivers else POLL)
        loops = [threads.submit(responder.run, stopping)]
        loops += [
            threads.submit(_listen, receiver, responder.wake, stopping) for receiver in receivers
        ]
        if file is not None:  # it takes nothing over, but says what needs a restart
            frame.reload = partial(Source(file, (), OTHERS).read, config)
        try:
            event(logger, level, "responder.started", mode=env)
            places = ", ".join(receiver.place for receiver in receivers)
            frame.ready(places or "the callbacks in MongoDB")
            while not frame.is_stopping and not any(loop.done() for loop in loops):
                frame.keep_alive()
                wait(loops, TICK, FIRST_COMPLETED)
        finally:
            stopping.set()
            responder.wake.set()
    for loop in loops:
        loop.result()  # raises what ended it
    event(logger, logging.INFO, "responder.stopped", **responder.counts)


def _listen(receiver: Receiver, wake: threading.Event, stopping: threading.Event) -> None:
    """Wake the dispatcher when there are jobs. What is due it finds itself, so they can go."""
    while not stopping.is_set():
        try:
            jobs = receiver.reserve(WAIT, BATCH)
            for holder in {job.holder for job in jobs}:
                holder.end({job: DELETED for job in jobs if job.holder is holder})
        except QueueUnavailable:  # said once by the tube; the sweep is the truth
            stopping.wait(PAUSE)
            continue
        if jobs:
            wake.set()
    receiver.close()

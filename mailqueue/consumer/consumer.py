"""The consumer process: threads, signals, exit codes.

Decides: which threads there are, how they come back after an outage, and in which order they stop.
What they do is in ``worker`` and ``sweeper``.

Stopping: SIGTERM or SIGINT (or ``stop()``) ends the reserving; claims that were not begun are given
back; what is being sent is finished and recorded; exit code 0. A second signal (``service`` says
what counts as one) leaves what is being sent to its lease and gives the rest back; exit code 1.
Handlers set flags only. SIGINT is heeded also where it was ignored at the start, as a shell's
background jobs have it.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)

from mailqueue import vendors
from mailqueue.config import Config, VendorConfig, is_production
from mailqueue.consumer.affinity import CpuAffinity
from mailqueue.consumer.meter import Meter
from mailqueue.consumer.planner import Inquiry, Task
from mailqueue.consumer.sweeper import Sweeper
from mailqueue.consumer.systemd import ServiceManager, Signals
from mailqueue.consumer.worker import Worker
from mailqueue.errors import ConfigError, MailQueueError, Unavailable
from mailqueue.logs import event
from mailqueue.queue import tube
from mailqueue.routing.bulkheads import Call
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.router import Router
from mailqueue.store import document, ids
from mailqueue.store.store import Store
from mailqueue.vendors.base import Vendor

logger = logging.getLogger(__name__)

TICK = 0.1
BURST_SWEEP = 1.0


class Consumer:
    """One consumer process. ``run()`` blocks until ``stop()``, which any thread may call.

    ``config``: as for ``Producer``. ``concurrency`` replaces ``consumer.concurrency``. ``burst``:
    ``run()`` returns when nothing is due now and nothing is leased. ``meter``: a line a second on
    standard error says what is being done. Raises ``ConfigError``.
    """

    def __init__(
        self,
        config: Config | str | Path | None = None,
        *,
        concurrency: int | None = None,
        burst: bool = False,
        meter: bool = False,
    ) -> None:
        self._simulated = not is_production()
        if not isinstance(config, Config):
            config = Config.load(config, secrets=not self._simulated)
        if concurrency is not None:
            config = config.replace(consumer=replace(config.consumer, concurrency=concurrency))
        if not config.vendors:
            raise ConfigError(["vendors: a consumer needs at least one"])
        self.config = config
        self._burst = burst
        mine = self._vendors()  # what cannot be made is said before anything is opened
        self._store = Store(
            config.mongodb, env=document.SIMULATED if self._simulated else document.PRODUCTION
        )
        owner = f"{socket.gethostname()}:{os.getpid()}:{ids.new()}"
        health = VendorHealth(self._store, [v.name for v in config.vendors], env=self._store.env)
        self._routing = Router(config, health, mine)
        self._meter = Meter() if meter else None
        self._worker = Worker(config, self._store, self._routing, owner=owner, meter=self._meter)
        self._sweeper = Sweeper(config, self._store, self._routing, owner=owner)
        self._tubes = [
            tube.Tube(server, config.beanstalkd.tube, self._sweeper.outage(server))
            for server in config.beanstalkd.servers
        ]
        self._stopping = self._worker.stopping
        self._asked_to_stop = threading.Event()
        self._signals = Signals()
        self._abandoning = threading.Event()
        self._failed = threading.Event()
        self._core: CpuAffinity | None = None
        self._senders: list[threading.Thread] = []

    def keep_to_one_core(self) -> None:
        """Keep all threads of this process to one core, if ``consumer.one_core`` says so."""
        if self.config.consumer.one_core:
            self._core = CpuAffinity()

    def _vendors(self) -> dict[str, Vendor]:
        """A set of vendors for one thread."""
        return {
            vendor.name: vendors.load(vendor, simulated=self._simulated)
            for vendor in self.config.vendors
        }

    def stop(self) -> None:
        """Stop gracefully; called again: leave what is being sent to its lease."""
        if self._asked_to_stop.is_set():
            self._abandoning.set()
        self._asked_to_stop.set()
        self._stopping.set()

    def interrupt(self) -> None:
        """``stop()`` for a signal handler: only a number changes here, ``run()`` does the rest.

        An event may be held by the very thread that the handler interrupts.
        """
        self._signals.came()

    def _heed(self) -> None:
        while self._signals.take():
            self.stop()

    def sweep(self) -> Mapping[str, int] | None:
        """One round of the sweeper alone, now; None: another process holds its lease."""
        try:
            self._store.ensure_indexes()
            self._routing.health.refresh()
            done = self._sweeper.sweep()
            self._sweeper.close()
            return done or None
        finally:
            self._store.close()

    def would_sweep(self) -> Mapping[str, int]:
        """What such a round would find; nothing is changed."""
        try:
            return self._sweeper.preview()
        finally:
            self._store.close()

    # The life of the process -------------------------------------------------------------------

    def run(self) -> int:
        """Consume until stopped; returns the exit code (0 or 1).

        Raises ``Unavailable`` when a server cannot be reached at the start, and ``ConfigError``
        for an index that MongoDB refuses.
        """
        try:
            self._store.ensure_indexes()
            self._routing.health.refresh()
            tube.depth(self.config.beanstalkd)
        except MailQueueError:
            self._store.close()
            raise
        self._say_started()
        takers = [self._start(f"taker-{t.server}", self._take, t) for t in self._tubes]
        writer = self._start("writer", self._write)
        for i in range(self.config.consumer.concurrency):
            self._senders.append(self._start(f"sender-{i}", self._send))
        sweeper = self._start("sweeper", self._sweep)
        if self._meter is not None:
            self._start("meter", self._meter.run, self._stopping, sys.stderr)
        self._wait([*takers, writer, sweeper])
        return self._wind_down(takers, writer, sweeper)

    def _wait(self, threads: Sequence[threading.Thread]) -> None:
        """Until somebody stops us; meanwhile tell the service manager that we are well."""
        with ServiceManager() as manager:
            while not self._stopping.wait(TICK):
                self._heed()
                self._replace_senders()
                if self._core is not None:
                    self._core.stay()
                if all(thread.is_alive() for thread in (*threads, *self._senders)):
                    manager.alive()
                if self._burst and self._is_done():
                    self._stopping.set()

    def _replace_senders(self) -> None:
        """Another thread in the place of each that a vendor keeps beyond the deadline."""
        for call in self._worker.overdue():
            self._senders.remove(call.thread)
            self._senders.append(self._start(call.thread.name, self._send_instead, call))

    def _wind_down(
        self,
        takers: Sequence[threading.Thread],
        writer: threading.Thread,
        sweeper: threading.Thread,
    ) -> int:
        """Stop in the order of the flow, so that nothing is handed to a thread that is gone."""
        self._join(takers)
        self._worker.end_sending(len(self._senders))
        self._join(self._senders)
        self._worker.end()
        writer.join(self.config.delivery.settle_timeout + self.config.mongodb.timeout)
        self._join([sweeper])
        for each in self._tubes:
            each.close()
        self._store.close()
        clean = not (self._abandoning.is_set() or self._failed.is_set() or writer.is_alive())
        event(logger, logging.INFO, "consumer.stopped", clean=clean)
        return 0 if clean else 1

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for their end; not for ever, as they may be in a class of the user's own."""
        give_up_at = time.monotonic() + self.config.delivery.deadline + self.config.mongodb.timeout
        while not self._abandoning.is_set():
            alive = next((thread for thread in threads if thread.is_alive()), None)
            if alive is None:
                return
            if time.monotonic() > give_up_at:
                event(logger, logging.ERROR, "consumer.thread_hangs", thread=alive.name)
                self._failed.set()
                return
            self._heed()
            self._replace_senders()
            alive.join(TICK)

    def _is_done(self) -> bool:
        """True when nothing is due now and nothing is leased."""
        try:
            return not self._store.has_work()
        except Unavailable:
            return False

    def _say_started(self) -> None:
        event(
            logger,
            logging.WARNING if self._simulated else logging.INFO,
            "consumer.started",
            mode="simulated" if self._simulated else "production",
            concurrency=self.config.consumer.concurrency,
            vendors=",".join(vendor.name for vendor in self.config.vendors),
        )

    # The threads -------------------------------------------------------------------------------

    def _start(self, name: str, role: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(
            target=self._guarded, args=(role, *arguments), name=name, daemon=True
        )
        thread.start()
        return thread

    def _guarded(self, role: Callable[..., None], *arguments: object) -> None:
        """A thread that dies of a bug takes the process with it: others will take its work."""
        try:
            role(*arguments)
        except BaseException as error:
            facts = {"thread": threading.current_thread().name, "error": type(error).__name__}
            event(logger, logging.CRITICAL, "consumer.thread_died", **facts)
            self._failed.set()
            self._stopping.set()
            raise

    def _take(self, from_tube: tube.Tube) -> None:
        while not self._stopping.is_set():
            self._through_outages(lambda: self._worker.taker.fetch(from_tube))

    def _send_instead(self, call: Call[Task | Inquiry]) -> None:
        self._worker.give_up(call)
        self._send()

    def _send(self) -> None:
        mine = ThreadVendors(self.config.vendors, self._simulated)
        while self._worker.deliver(mine):
            pass
        mine.close()

    def _write(self) -> None:
        """Results are kept through an outage of MongoDB; once we stop, for ``settle_timeout``."""
        last_try = False
        while True:
            try:
                if not self._worker.turn(self.config.delivery.settle_timeout):
                    return
            except Unavailable:
                if last_try:
                    self._failed.set()
                    event(logger, logging.ERROR, "results.not_recorded")
                    return
                last_try = self._stopping.wait(1.0)

    def _sweep(self) -> None:
        every = self.config.consumer.sweep_every
        while not self._stopping.is_set():
            self._through_outages(self._sweeper.sweep)
            self._stopping.wait(min(every, BURST_SWEEP) if self._burst else every)
        try:
            self._sweeper.close()
        except Unavailable:
            logger.debug("the sweeper's lease runs out by itself")

    def _through_outages(self, step: Callable[[], object]) -> None:
        """Do a step, again after a pause while a server is away, until we stop."""
        again = Retrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_random_exponential(multiplier=0.1, max=5.0),
            stop=stop_when_event_set(self._stopping),
            sleep=sleep_using_event(self._stopping),
        )
        try:
            again(step)
        except RetryError:
            logger.debug("stopped while a server was away")


class ThreadVendors(dict[str, Vendor]):
    """The vendors of one thread, each made when it is first needed.

    One that could be made at the start may fail here: that is an answer, and no end of the thread.
    """

    def __init__(self, configs: Sequence[VendorConfig], simulated: bool) -> None:
        super().__init__()
        self._configs = {config.name: config for config in configs}
        self._simulated = simulated

    def __missing__(self, name: str) -> Vendor:
        made = self[name] = vendors.load(self._configs[name], simulated=self._simulated)
        return made

    def close(self) -> None:
        """Close what was made."""
        for name, vendor in self.items():
            try:
                vendor.close()
            except BaseException as error:  # noqa: BLE001  # the others are to be closed as well
                error_type = type(error).__name__
                event(logger, logging.ERROR, "vendor.raised", vendor=name, error=error_type)

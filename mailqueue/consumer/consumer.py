"""The consumer process: threads, outages, the order of stopping, exit codes.

Decides: which threads there are, how they come back after an outage, and in which order they stop.
What they do is in ``fetcher``, ``writer``, ``sender`` and ``sweeper``.

Stopping: ``stop()`` ends the reserving; claims that were not begun are given back; what is being
sent is finished and recorded; exit code 0. Called again, it leaves what is being sent to its lease
and gives the rest back; exit code 1.

Reloading: ``reload()`` reads the configuration again, builds the rules that follow from it (the
vendors, the router, the planner), and puts them in the place of the old ones, in one step. What was
begun ends under the old ones; what is only claimed goes back if its vendor is another by now.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mailqueue import vendors
from mailqueue.config import Config, MongoDBQueue, is_production
from mailqueue.config.reload import Source
from mailqueue.consumer.delivery import Delivery
from mailqueue.consumer.hook import Hook
from mailqueue.consumer.meter import Meter
from mailqueue.consumer.reporter import AT_THE_END, EVERY
from mailqueue.consumer.sender import ThreadVendors
from mailqueue.consumer.shared import Rules
from mailqueue.consumer.sweeper import Sweeper
from mailqueue.consumer.writer import Writer
from mailqueue.errors import ConfigError, MailQueueError, Unavailable
from mailqueue.logs import event, place
from mailqueue.queue import open_broker
from mailqueue.queue.broker import Receiver
from mailqueue.routing.bulkheads import Call
from mailqueue.routing.health import VendorHealth
from mailqueue.routing.router import Router
from mailqueue.service.systemd import ServiceManager
from mailqueue.store import clocks, document, ids
from mailqueue.store.ends import EmailEnd
from mailqueue.store.store import Store
from mailqueue.vendors.base import Vendor

logger = logging.getLogger(__name__)

TICK = 0.1
BURST_SWEEP = 1.0
FLUSH_SECONDS = 5.0  # for spans of OpenTelemetry, which are not worth more
HOOK_SECONDS = 5.0  # for the application's hook, at the stop
# What a reload takes over, and what is not a consumer's
LIVE = frozenset(
    {"vendors", "routes", "failover", "retry", "suppression"}
    | {"delivery.on_unknown", "consumer.sweep_every"}
    | {"retention.sent_days", "retention.failed_days", "retention.content_days"}
)
OTHERS = frozenset({"limits", "http", "smtp"})


class Consumer:
    """One consumer process. ``run()`` blocks until ``stop()``.

    ``config``: as for ``Producer``. ``concurrency`` replaces ``consumer.concurrency``. ``burst``:
    ``run()`` returns when nothing is due now and nothing is leased. ``meter``: a line a second on
    standard error says what is being done. ``on_event`` is called with the ``EmailEnd`` of each
    e-mail that this process ends, once that is stored: in a thread of its own, one after the other.
    It cannot change what happens. What it raises is logged; while it takes long, ``hook.ROOM`` ends
    wait for it, and further ones are dropped. Raises ``ConfigError``.
    """

    def __init__(
        self,
        config: Config | str | Path | None = None,
        *,
        concurrency: int | None = None,
        burst: bool = False,
        meter: bool = False,
        on_event: Callable[[EmailEnd], object] | None = None,
    ) -> None:
        self._simulated = not is_production()
        self._source: Source | None = None  # of a ``Config`` there is nothing to read again
        if not isinstance(config, Config):
            own = {"consumer.concurrency"} if concurrency is not None else set[str]()
            secrets = not self._simulated
            self._source = Source(config, LIVE, OTHERS | own, secrets=secrets)
            config = Config.load(config, secrets=secrets)
        if concurrency is not None:
            config = config.replace(consumer=replace(config.consumer, concurrency=concurrency))
        self.config = config
        self._burst = burst
        self._store, router, owner = assemble(config, simulated=self._simulated)
        self._meter = Meter() if meter else None
        self._on_event = on_event
        self._hook: Hook | None = None
        self._writer = Writer(config, self._store, router, owner=owner, meter=self._meter)
        # It need not remember what it could not put: the sweeper's next round finds it again.
        self._broker = open_broker(config, keep=0, store=self._store)
        self._sweeper = Sweeper(config, self._store, router, self._broker, owner=owner)
        self._receivers = self._broker.receivers()
        self._stopping = self._writer.stopping
        self._asked: queue.SimpleQueue[Literal["stop", "reload"]] = queue.SimpleQueue()
        # The main thread alone reads and changes this, and the list of the senders.
        self._stops_heeded = 0
        self._failed = threading.Event()
        self._senders: list[threading.Thread] = []
        self._is_pacing = False
        self._well_at = time.monotonic()  # when the main thread last saw all others at work

    def stop(self) -> None:
        """Stop gracefully; called again: leave what is being sent to its lease.

        Any thread may call, and any signal handler: a SimpleQueue holds no lock that the
        interrupted thread may have.
        """
        self._asked.put("stop")

    def reload(self) -> None:
        """Read the configuration again, as soon as may be; what is not valid changes nothing.

        docs/configuration.md says what is taken over. Who may call: as for ``stop()``.
        """
        self._asked.put("reload")

    @property
    def _router(self) -> Router:
        return self._writer.rules.router

    def run(self) -> int:
        """Consume until stopped; returns the exit code (0 or 1).

        Raises ``Unavailable`` when a server cannot be reached at the start, and ``ConfigError``
        for an index that MongoDB refuses.
        """
        try:
            # A server that is away now ends the process, with its own exit code: whoever starts it
            # is to know. Later outages are waited for.
            alone = isinstance(self.config.broker, MongoDBQueue)
            self._store.ensure_indexes(reservations=alone)
            self._router.health.refresh()
            self._broker.depth()
            self._compare_clocks()
        except MailQueueError:
            self._store.close()
            raise
        self._say_started()
        if self._on_event is not None:
            self._hook = Hook(self._on_event)
            self._store.ends.listener = self._hook.put
        fetchers = [self._start(f"fetcher-{r.name}", self._fetch, r) for r in self._receivers]
        writer = self._start("writer", self._write)
        for i in range(self.config.consumer.concurrency):
            self._senders.append(self._start(f"sender-{i}", self._send))
        sweeper = self._start("sweeper", self._sweep)
        self._well_at = time.monotonic()  # it may have been made long ago
        reporter = self._start("reporter", self._report)
        self._pace()
        if self._meter is not None:
            self._start("meter", self._meter.run, self._stopping, sys.stderr)
        self._wait([*fetchers, writer, sweeper])
        return self._wind_down(fetchers, writer, sweeper, reporter)

    def _say_started(self) -> None:
        staging = self.config.staging
        fate = "" if staging is None or staging.redirect_to else "cancelled"
        event(
            logger,
            logging.WARNING if self._simulated or staging else logging.INFO,
            "consumer.started",
            mode="simulated" if self._simulated else "production",
            **({"staging": fate or "redirected"} if staging else {}),
            concurrency=self.config.consumer.concurrency,
            vendors=",".join(vendor.name for vendor in self.config.vendors),
        )

    def _compare_clocks(self) -> None:
        """Say so if a lease could end on one host of MongoDB while it holds on another."""
        apart = clocks.spread(self._store, self.config.mongodb)
        margin = self.config.delivery.margin
        if apart > margin:
            facts = {"seconds": round(apart, 1), "most": round(margin, 1)}
            event(logger, logging.ERROR, "mongodb.clocks_differ", **facts)

    # The main thread ---------------------------------------------------------------------------

    def _wait(self, threads: Sequence[threading.Thread]) -> None:
        """Until somebody stops us; meanwhile tell the service manager that we are well."""
        with ServiceManager() as manager:
            while not self._stopping.is_set():
                if self._heed(TICK):
                    manager.reloading()
                    self._take_over()
                    manager.ready()
                self._replace_senders()
                # Without a sign of life systemd starts the process anew: give none if a thread is
                # missing.
                if all(thread.is_alive() for thread in (*threads, *self._senders)):
                    manager.keep_alive()
                    self._well_at = time.monotonic()
                if self._burst and self._is_done():
                    self._stopping.set()

    def _heed(self, seconds: float) -> bool:
        """Wait for a call of ``stop()``, or of ``reload()``: then True, it is to be done."""
        with suppress(queue.Empty):
            if self._asked.get(timeout=seconds) == "reload":
                return True
            self._stops_heeded += 1
            self._stopping.set()
        return False

    def _take_over(self) -> None:
        """Read the configuration again; if it is valid, use it from now on."""
        if self._source is None:
            problem = "it was not read from a file"
            event(logger, logging.ERROR, "config.rejected", problem=problem)
            return
        mine: dict[str, Vendor] = {}
        config = self._source.read(
            self.config, lambda new: mine.update(load_vendors(new, simulated=self._simulated))
        )
        if config is not None:
            router = self._router.renew(config, mine)
            self.config = config
            self._sweeper.rules = config, router
            self._writer.rules = Rules.of(config, self._store, router)
            self._pace()

    def _pace(self) -> None:
        """A thread that keeps send times, once there is a vendor that has some."""
        if self._router.limits and not self._is_pacing:
            self._start("pacer", self._writer.sender.pacer.run)
            self._is_pacing = True

    @property
    def _is_abandoning(self) -> bool:
        """Whether what is being sent is left to its lease."""
        return self._stops_heeded > 1

    def _replace_senders(self) -> None:
        """Another thread in the place of each that a vendor keeps beyond the deadline."""
        for call in self._writer.sender.overdue():
            self._senders.remove(call.thread)
            self._senders.append(self._start(call.thread.name, self._send_instead, call))

    def _is_done(self) -> bool:
        """True when nothing that may be sent is due now, and nothing is leased."""
        try:
            return not self._store.has_work(leased_only=self._router.is_shut)
        except Unavailable:
            return False

    def _wind_down(
        self,
        fetchers: Sequence[threading.Thread],
        writer: threading.Thread,
        sweeper: threading.Thread,
        reporter: threading.Thread,
    ) -> int:
        """Stop in the order of the flow, so that nothing is handed to a thread that is gone.

        No fetcher brings anything any more; then no sender, whose last results are in the inbox;
        then the writer writes those and ends. Connections close last: jobs end through them.
        """
        self._join(fetchers)
        self._writer.sender.close(len(self._senders))
        self._join(self._senders)
        self._writer.close()
        # Not for ever: what is not written by then is left to its lease.
        writer.join(self.config.delivery.settle_timeout + self.config.mongodb.timeout)
        self._writer.sender.pacer.close()
        self._router.limits.give_back(everything=True)
        self._writer.sender.flush_spans(FLUSH_SECONDS)
        self._join([sweeper])
        reporter.join(AT_THE_END)
        if not reporter.is_alive():  # else MongoDB is away, and it waits for that
            self._writer.reporter.close()
        if self._hook is not None:
            self._hook.close(HOOK_SECONDS)
        # Last, since the queue takes the jobs of a closed connection back.
        for each in self._receivers:
            each.close()
        self._store.close()
        clean = not (self._is_abandoning or self._failed.is_set() or writer.is_alive())
        event(logger, logging.INFO, "consumer.stopped", clean=clean)
        return 0 if clean else 1

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for their end; not for ever, as they may be in a class of the user's own."""
        give_up_at = time.monotonic() + self.config.delivery.deadline + self.config.mongodb.timeout
        while not self._is_abandoning:
            alive = next((thread for thread in threads if thread.is_alive()), None)
            if alive is None:
                return
            if time.monotonic() > give_up_at:
                event(logger, logging.ERROR, "consumer.thread_hung", thread=alive.name)
                self._failed.set()
                return
            self._heed(0.0)
            self._replace_senders()
            alive.join(TICK)

    # The other threads -------------------------------------------------------------------------

    def _start(self, name: str, role: Callable[..., None], *arguments: object) -> threading.Thread:
        # A daemon: one that a vendor keeps for ever does not keep the process from its end.
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
            thread, kind = threading.current_thread().name, type(error).__name__
            facts = {"thread": thread, "error": kind, "at": place(error)}
            event(logger, logging.CRITICAL, "consumer.thread_died", **facts)
            self._failed.set()
            self._stopping.set()
            raise

    def _fetch(self, receiver: Receiver) -> None:
        while not self._stopping.is_set():
            self._through_outages(lambda: self._writer.fetcher.fetch(receiver))
        self._writer.fetcher.stop()

    def _write(self) -> None:
        """Results are kept through an outage of MongoDB; once we stop, for ``settle_timeout``."""
        last_try = False
        while True:
            try:
                if not self._writer.turn(self.config.delivery.settle_timeout):
                    return
            except Unavailable:
                if last_try:
                    self._failed.set()
                    event(logger, logging.ERROR, "results.not_recorded")
                    return
                # A second later, or at once when we stop; then the next try is the last.
                last_try = self._stopping.wait(1.0)

    def _send(self) -> None:
        own = ThreadVendors(lambda: self._writer.rules.config.vendors, simulated=self._simulated)
        while self._writer.sender.deliver(own):
            own.renew()
        own.close()

    def _send_instead(self, call: Call[Delivery]) -> None:
        self._writer.sender.give_up(call)
        self._send()

    def _sweep(self) -> None:
        while not self._stopping.is_set():
            every = self.config.consumer.sweep_every
            self._through_outages(self._sweeper.sweep)
            # A burst waits until nothing is leased, so leases that ran out are to be ended soon.
            self._stopping.wait(min(every, BURST_SWEEP) if self._burst else every)
        try:
            self._sweeper.close()
        except Unavailable:
            logger.debug("the sweeper's lease runs out by itself")

    def _report(self) -> None:
        """Say that we live, as long as the service manager is told so too."""
        while True:
            if time.monotonic() - self._well_at < EVERY:
                self._writer.reporter.beat()
            if self._stopping.wait(EVERY):
                return

    def _through_outages(self, step: Callable[[], object]) -> None:
        """Do a step, again after a pause while a server is away, until we stop."""
        longest = 0.1
        while True:
            try:
                step()
                return
            except Unavailable:
                # At random: many processes must not all come back at the same moment.
                if self._stopping.wait(random.uniform(0.0, longest)):  # noqa: S311  # no secret
                    return
                longest = min(5.0, 2 * longest)


def load_vendors(config: Config, *, simulated: bool) -> dict[str, Vendor]:
    """The vendors of a configuration. Raises ``ConfigError`` with the problems of all of them."""
    if not config.vendors:
        raise ConfigError(["vendors: a consumer needs at least one"])
    mine: dict[str, Vendor] = {}
    problems: list[str] = []
    for vendor in config.vendors:
        try:
            mine[vendor.name] = vendors.load(vendor, simulated=simulated)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return mine


@contextmanager
def build_sweeper(config: Config) -> Iterator[Sweeper]:
    """A sweeper without a consumer, for one round by hand; its lease is given back at the end.

    Raises ``ConfigError``, and ``StoreUnavailable`` also at the end.
    """
    store, router, owner = assemble(config, simulated=not is_production())
    sweeper = Sweeper(config, store, router, open_broker(config, keep=0), owner=owner)
    try:
        yield sweeper
    finally:
        store.close()


def assemble(config: Config, *, simulated: bool) -> tuple[Store, Router, str]:
    """The e-mails, the rules over the configured vendors, and the name of this process.

    What cannot be made is said before anything is opened.
    """
    mine = load_vendors(config, simulated=simulated)
    open_broker(config, keep=0)  # its package may be missing; it connects to nothing
    env = document.SIMULATED if simulated else document.PRODUCTION
    store = Store(config.mongodb, env=env, callbacks=config.callbacks, retention=config.retention)
    health = VendorHealth(store, list(mine), env=env)
    # Host and process id come again, above all in containers.
    owner = f"{socket.gethostname()}:{os.getpid()}:{ids.new()}"
    return store, Router(config, health, mine), owner

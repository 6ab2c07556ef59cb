"""Posting what is due: the dispatcher claims, threads post and settle.

Decides: how many posts go to one host at a time. A host begins with a few; each answer in 2xx gives
it one more, up to half of the threads, and any other outcome leaves it one. So a receiver that is
slow or dead holds few of the threads that the others need.

Assumes: claims are fenced, and a receiver knows a repeat by its ``webhook-id``.

Promises: a callback that is claimed is posted, or is due again when its claim is over. It ends with
an answer in 2xx (delivered) or 410 (gone), or after three days of other answers (failed). No line
of the log has an address, or more of a URL than its host.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from mailqueue.callbacks import signing
from mailqueue.callbacks.due import GIVE_UP_AFTER, DueCallbacks, host
from mailqueue.callbacks.event import Callback
from mailqueue.callbacks.poster import Answer, Poster
from mailqueue.config import Callbacks
from mailqueue.config.callbacks import url_problem
from mailqueue.errors import Unavailable
from mailqueue.logs import event, place
from mailqueue.store.callbacks import DELIVERED, DUE, FAILED, GONE
from mailqueue.vendors.http import common_headers

logger = logging.getLogger(__name__)

# Seconds between two looks at what is due
SWEEP = 1.0  # a job on the tube does not wait for it
POLL = 0.2  # where there is no tube
BEGIN = 4  # posts at a time to a host of which nothing is known
HOSTS = 10_000  # of which something is remembered


class Hosts:
    """The posts under way, by host. Any thread may call."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._most = max(1, threads // 2)
        self._lock = threading.Lock()
        self._posts: Counter[str] = Counter()
        self._limits: dict[str, int] = {}

    @property
    def free(self) -> int:
        """Threads that do nothing."""
        with self._lock:
            return self._threads - self._posts.total()

    def full(self) -> set[str]:
        """The hosts that have no room."""
        with self._lock:
            return {name for name, posts in self._posts.items() if posts >= self._limit(name)}

    def begin(self, name: str) -> bool:
        """Take a place, if there is one."""
        with self._lock:
            if self._posts[name] >= self._limit(name):
                return False
            self._posts[name] += 1
            return True

    def end(self, name: str, is_good: bool | None = None) -> None:
        """Give the place back; ``is_good``: how the host answered, None: it was not asked."""
        with self._lock:
            self._posts[name] -= 1
            if not self._posts[name]:
                del self._posts[name]
            if is_good is not None:
                if len(self._limits) >= HOSTS:
                    self._limits.clear()
                limit = min(self._most, self._limit(name) + 1)
                self._limits[name] = limit if is_good else 1

    def _limit(self, name: str) -> int:
        return self._limits.get(name, min(BEGIN, self._most))


class Responder:
    """One thread calls ``run``; ``wake`` may be set by any, when something is due.

    It looks itself every ``sweep`` seconds.
    """

    def __init__(self, due: DueCallbacks, settings: Callbacks, sweep: float = SWEEP) -> None:
        self._due, self._settings, self._sweep = due, settings, sweep
        self._secrets = [secret for secret in settings.secrets if secret]
        self._hosts = Hosts(settings.concurrency)
        self._local = threading.local()
        self.wake = threading.Event()
        self._counting = threading.Lock()
        self.counts: Counter[str] = Counter(delivered=0, gone=0, failed=0, postponed=0)

    def run(self, stopping: threading.Event) -> None:
        """Post what is due until ``stopping``; what is under way then is finished."""
        with ThreadPoolExecutor(self._settings.concurrency, "mailqueue-callback") as threads:
            while not stopping.is_set():
                self.wake.clear()
                try:
                    while not stopping.is_set() and self.turn(threads):
                        pass
                except Unavailable:  # said once by the outage
                    logger.debug("MongoDB is away")
                self.wake.wait(self._sweep)

    def turn(self, threads: ThreadPoolExecutor) -> int:
        """Claim what is due and has room, and hand it out; returns how many callbacks."""
        free = self._hosts.free
        due = self._due.find(free, self._hosts.full()) if free > 0 else {}
        chosen = {email_id: name for email_id, name in due.items() if self._hosts.begin(name)}
        callbacks: list[Callback] = []
        try:
            callbacks = self._due.claim(list(chosen)) if chosen else []
        finally:
            claimed = {each.stored.id for each in callbacks}
            for email_id in chosen.keys() - claimed:  # another process was faster
                self._hosts.end(chosen[email_id])
        for each in callbacks:
            threads.submit(self._deliver, each, chosen[each.stored.id])
        return len(callbacks)

    # One callback ------------------------------------------------------------------------------

    def _deliver(self, callback: Callback, name: str) -> None:
        """Post and settle; in a thread of its own."""
        is_good: bool | None = None
        try:
            answer, ms = self._post(callback)
            is_good = answer.code.startswith("2")
            self._settle(callback, answer, ms)
        except Unavailable:
            facts = callback.stored.facts | {"callback": callback.id}
            event(logger, logging.ERROR, "callback.not_recorded", **facts)
        except Exception as error:  # noqa: BLE001  # a bug of ours must not stop the others
            facts = callback.stored.facts | {"callback": callback.id}
            facts |= {"error": type(error).__name__, "at": place(error)}
            event(logger, logging.ERROR, "callback.not_posted", **facts)
        finally:
            self._hosts.end(name, is_good)
            self.wake.set()  # there is room

    def _post(self, callback: Callback) -> tuple[Answer, int]:
        """What came of the post, and how many milliseconds it took."""
        url = self._due.url(callback.stored.document)
        if url_problem(url, self._settings.allow) is not None:
            return Answer("not_allowed"), 0
        body = self._due.body(callback)
        headers = {
            **common_headers(),
            "Content-Type": "application/json",
            **self._sign(callback, body),
        }
        began = time.monotonic()
        answer = self._poster.post(url, body, headers, self._settings.timeout)
        return answer, round((time.monotonic() - began) * 1000)

    def _sign(self, callback: Callback, body: bytes) -> Mapping[str, str]:
        return signing.headers(self._secrets, callback.id, int(time.time()), body)

    @property
    def _poster(self) -> Poster:
        """This thread's."""
        poster: Poster | None = getattr(self._local, "poster", None)
        if poster is None:
            poster = self._local.poster = Poster(self._settings.allows)
        return poster

    def _settle(self, callback: Callback, answer: Answer, ms: int) -> None:
        """2xx and 410 end it; with any other answer it is due again, for three days."""
        is_good = answer.code.startswith("2")
        state = DELIVERED if is_good else GONE if answer.code == "410" else DUE
        delay = self._due.settle(callback, state, answer.code, answer.retry_after)
        facts: dict[str, object] = {
            **callback.stored.facts,
            "callback": callback.id,
            "type": callback.type,
            "host": host(self._due.url(callback.stored.document)),
            "code": answer.code,
            "tries": callback.entry["tries"],
            "ms": ms,
        }
        age = (callback.stored.now - callback.entry["since"]).total_seconds()
        if state == DUE and age >= GIVE_UP_AFTER:  # as the write has it
            state = FAILED
        with self._counting:
            self.counts["postponed" if state == DUE else state] += 1
        if state == DELIVERED:
            event(logger, logging.INFO, "callback.delivered", **facts)
        elif state == GONE:
            event(logger, logging.WARNING, "callback.gone", **facts)
        elif state == FAILED:
            event(logger, logging.ERROR, "callback.failed", **facts)
        else:
            event(logger, logging.WARNING, "callback.postponed", **facts, seconds=round(delay))

"""What every contender does: the same e-mail, the same post, measured the same way.

A contender is a script beside this one, run in a virtual environment of its own: it may import
nothing of ours but this file (mailqueue's own script: the product). It takes one of these roles::

    prepare                 empty the queue, create what must be there (untimed)
    enqueue CALLERS SECONDS callers enqueue one e-mail at a time; prints the tally as JSON
    bulk SECONDS            one caller, the library's best way for many; prints the tally as JSON
    fill COUNT              enqueue so many, the fastest way there is (untimed)
    worker                  become the worker (exec), until SIGTERM
    ping COUNT PAUSE        one e-mail at a time to an idle worker; prints when each was sent
    serve PORT              become a server (exec) that enqueues the JSON of each POST /emails
    stored                  print how many were enqueued since ``prepare``, as JSON

The environment says the rest: ``BENCH_BROKER`` (a URL, or mailqueue's config file),
``BENCH_CONCURRENCY`` (of the worker), ``BENCH_URL`` (the vendor; empty: no HTTP) and ``BENCH_DONE``
(a file that grows by ``WIDTH`` bytes for each e-mail, written by the vendor, or by ``tick`` when
there is none).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

URL = os.environ.get("BENCH_URL", "")
BROKER = os.environ.get("BENCH_BROKER", "")
CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "8"))
WIDTH = 8
PATH = "/v3/mail/send"
WARM_UP = 20

TEXT = "Hello Bob,\n\nsomebody asked for a new password for your account. " * 4
HTML = f"<html><body><h1>Your new password</h1><p>{TEXT}</p><p>Follow the link.</p></body></html>"


def email(number: int) -> dict[str, Any]:
    """A password reset of about 1 KB, as an application hands it in."""
    return {
        "from": "Ann <ann@example.com>",
        "to": [f"bob-{number}@example.org"],
        "subject": f"Your new password ({number})",
        "text": TEXT,
        "html": HTML,
    }


# In the worker -----------------------------------------------------------------------------------


def body(mail: dict[str, Any]) -> bytes:
    """The request as SendGrid wants it."""
    payload = {
        "personalizations": [{"to": [{"email": to} for to in mail["to"]]}],
        "from": {"email": "ann@example.com", "name": "Ann"},
        "subject": mail["subject"],
        "content": [
            {"type": "text/plain", "value": mail["text"]},
            {"type": "text/html", "value": mail["html"]},
        ],
    }
    return json.dumps(payload).encode()


HEADERS = {"Authorization": "Bearer SG.x", "Content-Type": "application/json"}
_thread = threading.local()
_session: Any = None
_done: int | None = None


def tick() -> None:
    """One e-mail is done, and no vendor was there to count it."""
    global _done  # noqa: PLW0603  # one file per process
    if _done is None:
        _done = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_done, time.monotonic_ns().to_bytes(WIDTH, "little"))


def send(mail: dict[str, Any]) -> None:
    """The job of a contender with threads or processes: post with requests, else tick."""
    if not URL:
        tick()
        return
    import requests

    session = getattr(_thread, "session", None)
    if session is None:
        session = _thread.session = requests.Session()
    answer = session.post(URL + PATH, data=body(mail), headers=HEADERS, timeout=30)
    answer.raise_for_status()


async def asend(mail: dict[str, Any]) -> None:
    """The job of an asynchronous contender: post with aiohttp, else tick."""
    global _session  # noqa: PLW0603  # one session per process
    if not URL:
        tick()
        return
    import aiohttp

    if _session is None:
        _session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    async with _session.post(URL + PATH, data=body(mail), headers=HEADERS) as answer:
        answer.raise_for_status()
        await answer.read()


# In the application ------------------------------------------------------------------------------


def tally(count: int, began: float, cpu: float) -> None:
    """Tell how many e-mails were enqueued since then, and the application's own CPU for each."""
    seconds = time.perf_counter() - began
    tell(count=count, seconds=seconds, cpu=(time.process_time() - cpu) / max(count, 1) * 1e6)


def tell(**figures: Any) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def enqueue(one: Callable[[dict[str, Any]], object], callers: int, seconds: float) -> None:
    """Let so many threads call ``one`` for so long; the first calls of each are not counted."""
    counts = [0] * callers
    ready = threading.Barrier(callers + 1)
    stop = threading.Event()

    def caller(me: int) -> None:
        for number in range(WARM_UP):
            one(email(number))
        ready.wait()
        while not stop.is_set():
            one(email(counts[me]))
            counts[me] += 1

    threads = [threading.Thread(target=caller, args=(n,), daemon=True) for n in range(callers)]
    for thread in threads:
        thread.start()
    ready.wait()
    began, cpu = time.perf_counter(), time.process_time()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    tally(sum(counts), began, cpu)


async def aenqueue(
    one: Callable[[dict[str, Any]], Awaitable[object]], callers: int, seconds: float
) -> None:
    """The same for coroutines of one event loop."""
    import asyncio

    for number in range(WARM_UP):
        await one(email(number))
    counts = [0] * callers
    began, cpu = time.perf_counter(), time.process_time()

    async def caller(me: int) -> None:
        while time.perf_counter() - began < seconds:
            await one(email(counts[me]))
            counts[me] += 1

    await asyncio.gather(*(caller(n) for n in range(callers)))
    tally(sum(counts), began, cpu)


def bulk(many: Callable[[list[dict[str, Any]]], object], seconds: float, size: int = 500) -> None:
    """Call ``many`` with ``size`` e-mails again and again for so long."""
    many([email(n) for n in range(size)])
    count = 0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        many([email(count + n) for n in range(size)])
        count += size
    tally(count, began, cpu)


async def abulk(
    many: Callable[[list[dict[str, Any]]], Awaitable[object]], seconds: float, size: int = 500
) -> None:
    """The same for a coroutine."""
    await many([email(n) for n in range(size)])
    count = 0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        await many([email(count + n) for n in range(size)])
        count += size
    tally(count, began, cpu)


def received() -> int:
    """How many e-mails the vendor has got."""
    try:
        status = os.stat(os.environ["BENCH_DONE"])  # noqa: PTH116  # the cheapest: it is polled
        return status.st_size // WIDTH
    except FileNotFoundError:
        return 0


def ping(one: Callable[[dict[str, Any]], object], count: int, pause: float) -> None:
    """Send to an idle worker; the next only when the vendor has got the last, and a pause later."""
    sent = []
    for number in range(count):
        before = received()
        sent.append(time.monotonic_ns())
        one(email(number))
        give_up = time.monotonic() + 20
        while received() == before:
            if time.monotonic() > give_up:
                raise SystemExit(f"e-mail {number} did not arrive within 20 s")
            time.sleep(0.0005)
        time.sleep(pause)
    tell(sent=sent)


async def aping(
    one: Callable[[dict[str, Any]], Awaitable[object]], count: int, pause: float
) -> None:
    """The same for a coroutine; this process has nothing else to do."""
    sent = []
    for number in range(count):
        before = received()
        sent.append(time.monotonic_ns())
        await one(email(number))
        give_up = time.monotonic() + 20
        while received() == before:
            if time.monotonic() > give_up:
                raise SystemExit(f"e-mail {number} did not arrive within 20 s")
            time.sleep(0.0005)  # noqa: ASYNC251  # nothing else runs here
        time.sleep(pause)  # noqa: ASYNC251  # see above
    tell(sent=sent)

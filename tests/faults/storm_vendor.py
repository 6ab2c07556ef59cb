"""The storm's vendors: a process of its own, which nobody kills, with a log that cannot be lost.

::

    python -m tests.faults.storm_vendor LOG SEED LATENCY      prints the ports, runs until SIGTERM

Decides: what a vendor took. Each acceptance is one line, ``vendor id``, written before any byte of
the answer: whoever dies afterwards, the copy is out. The first port fails half its calls in every
way that there is, some of them after it took the e-mail. Where it can it quotes the request back.
All speak SendGrid's API: it offers no search for what was sent, so an unknown outcome stays one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import struct
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

VENDORS = ("flaky", "steady", "second")
HANGS_FOR = 30.0
_ID = re.compile(rb'mailqueue_id"[^0-9a-f]+([0-9a-f]{24})')
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Call:
    """One request at one vendor."""

    vendor: str
    request: bytes
    writer: StreamWriter
    log: int

    def take(self) -> None:
        """A copy is out."""
        found = _ID.search(self.request)
        assert found is not None, "a request without our id"
        os.write(self.log, b"%s %s\n" % (self.vendor.encode(), found[1]))

    def answer(self, status: int, body: bytes, length: int | None = None) -> None:
        length = len(body) if length is None else length
        head = f"HTTP/1.1 {status} Reason\r\nContent-Length: {length}\r\nX-Message-Id: x\r\n\r\n"
        self.writer.write(head.encode() + body)

    def reset(self) -> None:
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def yes(self) -> None:
        self.take()
        self.answer(202, b"")


async def _unavailable(call: Call) -> None:
    quoted = call.request[-500:].decode("latin-1") + call.request.decode("latin-1")
    call.answer(503, json.dumps({"errors": [{"message": quoted}]}).encode())


async def _reset_after_reading(call: Call) -> None:
    call.reset()


async def _reset_after_taking(call: Call) -> None:
    call.take()
    call.reset()


async def _hang(call: Call) -> None:
    await asyncio.sleep(HANGS_FOR)


async def _hang_after_taking(call: Call) -> None:
    call.take()
    await asyncio.sleep(HANGS_FOR)


async def _cut_body(call: Call) -> None:
    """Not the status that is documented as a yes, so it is unknown, though it was one."""
    call.take()
    call.answer(200, b'{"id": "', length=500)
    call.writer.close()


FAILURES: tuple[Callable[[Call], Awaitable[None]], ...] = (
    *(_unavailable, _reset_after_reading, _reset_after_taking),
    *(_hang, _hang_after_taking, _cut_body),
)


class Vendor:
    def __init__(self, name: str, log: int, rand: random.Random, latency: float) -> None:
        self._name = name
        self._log = log
        self._rand = rand
        self._latency = latency
        self._flaky = name == VENDORS[0]

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One connection."""
        try:
            while not writer.is_closing():
                await self._one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the consumer is gone, or its deadline passed
        finally:
            writer.close()

    async def _one(self, reader: StreamReader, writer: StreamWriter) -> None:
        first = await reader.readexactly(1)
        if self._flaky and self._rand.random() < 0.1:
            Call(self._name, b"", writer, self._log).reset()  # before reading
            return
        head = first + await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        call = Call(self._name, head + body, writer, self._log)
        await asyncio.sleep(self._latency * self._rand.uniform(0.2, 1.8))
        if self._flaky and self._rand.random() < 0.45:
            await self._rand.choice(FAILURES)(call)
        else:
            call.yes()
        if not writer.is_closing():
            await writer.drain()


async def _main(log: int, seed: int, latency: float) -> None:
    rand = random.Random(seed)
    ports = {}
    for name in VENDORS:
        vendor = Vendor(name, log, rand, latency)
        server = await asyncio.start_server(vendor.serve, "127.0.0.1", 0, limit=2**20)
        ports[name] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)  # noqa: T201  # for the storm to read
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


if __name__ == "__main__":
    path, seed, latency = sys.argv[1:]
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    asyncio.run(_main(opened, int(seed), float(latency)))

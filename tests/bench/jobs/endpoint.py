"""A vendor that takes its time: ``python endpoint.py PORT DELAY DONE`` (uvloop, one process).

Answers each POST with 202, ``DELAY`` seconds after it has read the whole request, and notes the
moment of reading in the file ``DONE``: 8 bytes, CLOCK_MONOTONIC in ns, as ``work.tick`` does.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time

import uvloop

ANSWER = b"HTTP/1.1 202 Accepted\r\nX-Message-Id: at-the-vendor\r\nContent-Length: 0\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Vendor(asyncio.Protocol):
    """One connection; HTTP/1.1 with keep-alive, bodies with a Content-Length."""

    delay = 0.0
    done = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            found = LENGTH.search(self.buffer, 0, end)
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(self.buffer) < whole:
                return
            self.buffer = self.buffer[whole:]
            os.write(self.done, time.monotonic_ns().to_bytes(8, "little"))
            if self.delay:
                self.loop.call_later(self.delay, self.answer)
            else:
                self.answer()

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER)  # type: ignore[attr-defined]  # a WriteTransport


async def main(port: int, delay: float, done: str) -> None:
    Vendor.delay = delay
    Vendor.done = os.open(done, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    server = await asyncio.get_running_loop().create_server(Vendor, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))

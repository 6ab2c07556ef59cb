"""The storm's application, as it is called back: a process of its own, which nobody kills.

::

    python -m tests.faults.storm_receiver LOG SECRET SEED      prints its port, runs until SIGTERM

Decides: what was heard. Each callback that it takes is one line, ``webhook-id type``, written
before any byte of the answer. Some it fails at their first post, before or after it took them: by
an error, a broken connection, or an answer that comes too late. A callback with a wrong signature
is never taken, and a repeat that says something else is taken as ``changed``.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

CHANGED = "changed"
LATE = 3.0  # seconds; a post may take two
FAILING = 0.08


class Receiver(ThreadingHTTPServer):
    """Takes callbacks, and fails some."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, log: int, secret: str, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.log, self.webhook, self.rand = log, Webhook(secret), random.Random(seed)
        self.lock = threading.Lock()
        self.bodies: dict[str, bytes] = {}

    def take(self, id_: str, body: bytes) -> None:
        """It is heard."""
        with self.lock:
            is_same = self.bodies.setdefault(id_, body) == body
        type_ = json.loads(body)["type"] if is_same else CHANGED
        os.write(self.log, f"{id_} {type_}\n".encode())


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Receiver
    failed: set[str] = set()  # noqa: RUF012  # of all connections, and guarded by the lock

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            self.server.webhook.verify(body, {k.lower(): v for k, v in self.headers.items()})
        except WebhookVerificationError:
            self._answer(401)
            return
        id_ = self.headers["webhook-id"]
        with self.server.lock:
            fails = id_ not in self.failed and self.server.rand.random() < FAILING
            self.failed.add(id_)
            is_taken, trouble = (
                self.server.rand.choice((True, False)),
                self.server.rand.randrange(3),
            )
        if not fails or is_taken:
            self.server.take(id_, body)
        if not fails or trouble == 0:
            self._answer(500 if fails else 200)
            return
        time.sleep(LATE if trouble == 1 else 0)
        self.close_connection = True

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name
        """Nothing."""


if __name__ == "__main__":
    path, secret, seed = sys.argv[1:]
    receiver = Receiver(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), secret, int(seed)
    )
    print(json.dumps(receiver.server_address[1]), flush=True)  # noqa: T201  # for the storm to read
    receiver.serve_forever()
